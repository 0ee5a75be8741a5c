"""Sequential Fine-tuning with Averaging: Composer algorithm and experiment suite."""

from typing import TYPE_CHECKING, Any

from sfa import extras
from sfa.schedule import merge_steps

if TYPE_CHECKING:
    from sfa.algorithm import SFA

__all__ = ["SFA", "merge_steps"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports Composer only when ``SFA`` is asked for, so that a config is checked in a moment."""
    if name == "SFA":
        extras.require("composer")
        from sfa.algorithm import SFA

        return SFA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
