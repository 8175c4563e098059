"""Errors that a user can mend. Each says what is wrong, where, and how to mend it, in one screen; its class is the exit code.

    0 ok   1 failed   2 usage, config or input   3 does not fit   4 cluster or store unreachable   130 stopped, goes on later

Everything else that is raised is a bug of ours and keeps its traceback.
"""

from typing import ClassVar


class UserError(Exception):
    """What was asked for cannot be done as it was asked."""

    exit_code: ClassVar[int] = 2


class RunFailed(UserError):
    """The work itself failed."""

    exit_code: ClassVar[int] = 1


class DoesNotFit(UserError):
    """Not enough memory, disk or budget."""

    exit_code: ClassVar[int] = 3


class Unreachable(UserError):
    """A cluster or a store does not answer, or refuses us."""

    exit_code: ClassVar[int] = 4


class Stopped(UserError):
    """Somebody asked for the stop; what was done is kept and the same command goes on from there."""

    exit_code: ClassVar[int] = 130


def user_error_inside(error: BaseException | None) -> UserError | None:
    """The UserError that a Ray task, actor or worker raised, without what Ray wraps around it; None where there is none.

    Ray's RayTaskError is of the class of its `cause` as well, but says a whole traceback: the cause is what is wanted.
    """
    while error is not None:
        cause = getattr(error, "cause", None)
        if isinstance(error, UserError) and cause is None:
            return error
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


def with_exit_code(exit_code: int, message: str) -> UserError:
    """An error that ends the command with `exit_code`, for one that arrives from another process as text."""
    classes = {kind.exit_code: kind for kind in (UserError, RunFailed, DoesNotFit, Unreachable, Stopped)}
    return classes[exit_code](message)
