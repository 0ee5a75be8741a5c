"""``plugins: [sfa.axolotl.SFAPlugin]``: SFA for axolotl."""

from sfa.trainers.axolotl import SFAArguments, SFAPlugin

__all__ = ["SFAArguments", "SFAPlugin"]
