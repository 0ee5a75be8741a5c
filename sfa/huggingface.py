"""``from sfa.huggingface import SFACallback``: SFA for transformers' Trainer, TRL and all that is built on them."""

from sfa.trainers.huggingface import SFACallback

__all__ = ["SFACallback"]
