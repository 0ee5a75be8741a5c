"""Failures that are reported as one message, without a traceback."""

# Exit codes: the command failed, its config or usage is wrong, it was stopped by a signal.
FAILED, WRONG, INTERRUPTED = 1, 2, 130


def one_line(error: Exception) -> str:
    """An error's message in one line, or else the name of its class."""
    return " ".join(str(error).split()) or type(error).__name__


class SFAError(Exception):
    """A failure that the user can act on.

    Args:
        message: what is wrong, without a full stop if ``advice`` follows.
        advice: what to do about it, or what state files are in; without a full stop.
        code: exit code of a command that ends with it; defaults to that of the class.

    Attributes:
        message: the message.
        advice: the advice.
        code: the exit code.
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
    """An argument of a command is invalid, or names something that does not exist."""

    code = WRONG


class NotFinite(SFAError):
    """A loss, gradient, weight or Fisher information that is infinite or NaN."""

    def __init__(self, message: str):
        super().__init__(message, "It was not saved; the last checkpoint does not contain it")


class MissingExtra(SFAError, ImportError):
    """A package of an optional extra is not installed."""


class ModelFilesError(SFAError, ValueError):
    """The files of a model folder are damaged, incomplete or outside the folder."""


class MergeError(SFAError, ValueError):
    """Models that are incompatible, or settings with which they cannot be merged."""


class Interrupted(SFAError):
    """Work was stopped by a signal; the same command resumes it."""

    code = INTERRUPTED

    def __init__(self, message: str = "Interrupted", advice: str = "To resume"):
        super().__init__(message, advice)
