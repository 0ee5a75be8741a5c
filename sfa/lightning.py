"""``from sfa.lightning import SFACallback``: SFA for Lightning's Trainer."""

from sfa.trainers.lightning import SFACallback

__all__ = ["SFACallback"]
