"""Failures that are reported in one message, without a traceback."""

# Exit codes: what a command was asked for failed, its config or usage is wrong, it was stopped by a signal.
FAILED, WRONG, INTERRUPTED = 1, 2, 130


class SFAError(Exception):
    """Something that cannot be done, for a reason that the user can act on.

    Args:
        message: what is wrong, without a full stop where ``advice`` follows.
        advice: what can be done about it, or what state things are in; without a full stop.
        code: the exit code of a command that ends with it, unless it is that of the class.

    Attributes:
        message: as given.
        advice: as given.
        code: as given, or the class's own.
    """

    code: int = FAILED

    def __init__(self, message: str, advice: str = "", code: int | None = None):
        super().__init__(message)
        self.message, self.advice = message, advice
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}." if self.advice else self.message


class UsageError(SFAError):
    """What a command was given is not there, or is not what the command takes."""

    code = WRONG


class NotFinite(SFAError):
    """A loss, gradient, weight or Fisher information that is infinite or not a number."""

    def __init__(self, message: str):
        super().__init__(message, "Nothing of it is kept; the last checkpoint is from before")


class MissingExtra(SFAError, ImportError):
    """A package that an extra of this one brings is not installed."""


class ModelFilesError(SFAError, ValueError):
    """The files of a model's folder are damaged, are missing some of their parts, or lie elsewhere."""


class MergeError(SFAError, ValueError):
    """Models that do not belong together, or settings with which they cannot be merged."""


class Interrupted(SFAError):
    """Work was stopped by a signal; the same command goes on with it."""

    code = INTERRUPTED

    def __init__(self, message: str = "Interrupted", advice: str = "To go on"):
        super().__init__(message, advice)
