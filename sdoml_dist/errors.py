"""Errors that tell users what is wrong, why it matters and what to type next; and the exit codes."""

from __future__ import annotations

from enum import IntEnum

from sdoml_dist.redact import redact


class ExitCode(IntEnum):
    """Exit codes of every command. They are stable: scripts may rely on them."""

    COMPLETE = 0
    BUG = 1
    USAGE = 2
    FRAMES_FAILED = 3
    INVALID = 4
    ENVIRONMENT = 5
    STOPPED = 75


class SdomlError(Exception):
    """An error with a cure. Passwords and signatures of addresses are taken out of its texts.

    Parameters
    ----------
    what : str
        What is wrong, with the values.
    why : str, optional
        Why it matters.
    hint : str, optional
        What to type next.
    """

    exit_code = ExitCode.BUG

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        what, why, hint = redact(what), redact(why), redact(hint)
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.hint) if line)


class UsageError(SdomlError):
    """The recipe or the command line is wrong; nothing was written."""

    exit_code = ExitCode.USAGE


class RecipeError(UsageError):
    """The recipe cannot be used as it is."""


class CalibrationError(UsageError):
    """A calibration table is missing, damaged or does not cover what is asked of it."""


class StoreError(UsageError):
    """The dataset cannot be opened, or does not fit what is asked of it."""


class EnvironmentFault(SdomlError):
    """The machine lacks something: space, memory, network, nodes, permission, a free dataset."""

    exit_code = ExitCode.ENVIRONMENT


class ValidationError(SdomlError):
    """The dataset breaks one of its own laws."""

    exit_code = ExitCode.INVALID


class Stopped(SdomlError):
    """The run was asked to stop; all finished work is committed and the same command resumes."""

    exit_code = ExitCode.STOPPED
