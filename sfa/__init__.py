"""Sequential Fine-tuning with Averaging: the method, and an experiment suite on Composer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sfa import extras
from sfa.schedule import merge_steps

if TYPE_CHECKING:
    from sfa.averager import Averager
    from sfa.trainers.composer import SFA

__all__ = ["SFA", "Averager", "merge_steps"]
__version__ = "0.1.0"

_PLACES = {"SFA": "sfa.trainers.composer", "Averager": "sfa.averager"}


def __getattr__(name: str) -> Any:
    """Imports torch and Composer only when they are needed, so that a config is checked in a moment."""
    if name in _PLACES:
        if name == "SFA":
            extras.require("composer")
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
