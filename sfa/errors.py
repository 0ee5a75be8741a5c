"""What a person is told in a line, without a traceback."""

from typing import ClassVar


class SFAError(Exception):
    """A wish that cannot be fulfilled: says what is wrong, and what to do where that is not plain.

    Attributes:
        code: the exit code of a command that ends with it.
    """

    code: ClassVar[int] = 1


class UsageError(SFAError):
    """What a command was given is not there, or is not what the command takes."""

    code = 2


class NotFinite(SFAError):
    """A loss, gradient, weight or Fisher information that is infinite or not a number."""
