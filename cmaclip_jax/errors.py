"""The one kind of error that is shown without a traceback."""


class UserError(Exception):
    """A mistake that its user can mend: one line that says what to do, exit status 2."""


class Interrupted(Exception):
    """A run that was asked to stop, and saved what it had. `status` is for the shell."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
