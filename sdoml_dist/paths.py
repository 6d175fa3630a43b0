"""Names that come from elsewhere and become paths stay inside their folder; what is kept does not lie where Ray removes it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from sdoml_dist.errors import UsageError

# Where Ray unpacks what is sent with a job, below the folder of its session on each node (2.60: ray_constants and
# runtime_env.working_dir, runtime_env.py_modules). A folder that is part of an image (local://) is not there, and stays.
_COPIES = {("runtime_resources", "working_dir_files"), ("runtime_resources", "py_modules_files")}


def inside(name: str) -> str:
    """Return a relative name that stays inside its folder, as it is.

    Parameters
    ----------
    name : str
        Parts separated by ``/``.

    Raises
    ------
    ValueError
        If it is empty, absolute, leads upwards, or has characters that some system takes for separators.
    """
    parts = name.split("/")
    odd = any(character in name for character in "\\\0") or (len(name) > 1 and name[1] == ":")
    if odd or "://" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is no path inside its folder")
    return name


def in_copy(place: str | Path) -> bool:
    """Whether a path is in the copy of a working folder that Ray makes for a job, whatever it is reached by.

    Parameters
    ----------
    place : str or pathlib.Path
        Relative to this process's folder, or absolute.
    """
    return not _COPIES.isdisjoint(pairwise(Path(place).expanduser().resolve().parts))


def refuse_copy(place: str, what: str) -> None:
    """Refuse to keep something in the copy of a working folder that Ray makes for a job.

    Parameters
    ----------
    place : str
        A path, relative to this process's folder or absolute, or the address of an object store, which is never one.
    what : str
        What would be kept there.

    Raises
    ------
    UsageError
        If it would lie in such a copy.
    """
    if "://" in place and not place.startswith("file://"):
        return
    path = Path(place.removeprefix("file://"))
    if in_copy(path):
        raise UsageError(
            f"{what} would be at {path.expanduser().absolute()}, in this job's copy of the working folder.",
            "Ray removes that copy, and only this node has it.",
            "Give a folder that all nodes share, by its whole path, or an object store.",
        )
