"""Errors with types of their own, and advice that several messages give."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake that the user can correct. It ends in one line that says how, with status 2."""


class DoesNotDivide(UserError):
    """Devices or a batch that a mesh cannot divide evenly."""


class Interrupted(Exception):
    """A run that was asked to stop, after it has saved its state. `status` is for the shell."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status

    def __reduce__(self):
        """Lets pickle copy the error to another process."""
        return Interrupted, (str(self), self.status)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def installed_by(what: str, requirement: str) -> Iterator[None]:
    """For imports of optional packages: if one is missing, UserError says what to install.

    what: the feature that needs them. requirement: as pip takes it.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{first_line(error)}; {what} needs: pip install '{requirement}'"
        ) from error


def nearest_multiples(value: int, step: int) -> str:
    """The multiples of `step` around `value`, as advice: '960 or 1024'."""
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)
