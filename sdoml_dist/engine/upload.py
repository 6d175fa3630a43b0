"""What a working folder would upload with a job: Ray's own rules of what is left out, and a limit before anything is sent."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sdoml_dist.errors import UsageError
from sdoml_dist.report.plan_text import human_bytes

LIMIT_BYTES = 50 * 10**6
_MOST_LINES = 8


@dataclass(frozen=True)
class Upload:
    """A working folder as it would be sent.

    Attributes
    ----------
    folder : pathlib.Path
        The folder.
    files : int
        How many files.
    bytes : int
        Their sizes before compression.
    largest : tuple of (str, int)
        What is directly in the folder, or one below, by size.
    """

    folder: Path
    files: int
    bytes: int
    largest: tuple[tuple[str, int], ...]


def working_folder(folder: str | Path) -> Path:
    """Return a job's working folder by its whole path.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "It would be the job's working folder.", "Correct --working-dir.")
    return folder


def measure(folder: str | Path) -> Upload:
    """Walk a folder as Ray does: .rayignore and .gitignore of every level count, and Ray's own list (.git, .venv, ...).

    Parameters
    ----------
    folder : path
        The working folder.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    folder = working_folder(folder)
    sizes: Counter[str] = Counter()
    files = total = 0

    def count(path: Path) -> None:
        nonlocal files, total
        if not path.is_file():
            return
        size = path.stat().st_size
        files, total = files + 1, total + size
        parts = path.relative_to(folder).parts
        for depth in (1, 2):
            if len(parts) >= depth:
                sizes["/".join(parts[:depth]) + ("/" if len(parts) > depth else "")] += size

    quiet = logging.getLogger(f"{__name__}.walk")
    quiet.setLevel(logging.WARNING)
    excludes = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(folder, excludes, count, include_gitignore=True, logger=quiet)
    return Upload(folder, files, total, tuple(sizes.most_common(_MOST_LINES)))


def check(upload: Upload, limit_bytes: int = LIMIT_BYTES) -> None:
    """Refuse a folder that is too large to be sent.

    Raises
    ------
    UsageError
        With the largest folders.
    """
    if upload.bytes <= limit_bytes:
        return
    lines = [f"  {human_bytes(size):>10}  {name}" for name, size in upload.largest]
    raise UsageError(
        f"{upload.folder} has {human_bytes(upload.bytes)} in {upload.files} files, the limit is {human_bytes(limit_bytes)}:\n"
        + "\n".join(lines),
        "Every node of the cluster would fetch it; data belong into shared storage.",
        "Leave them out by a line in .rayignore, send another folder (--working-dir), or raise --limit.",
    )
