"""Which code this is: the version, and the commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from sdoml_dist import __version__

_TIMEOUT_S = 5.0


@cache
def code_version() -> str:
    """Return the version, for example ``0.1.0``, or ``0.1.0+c3a336c5d0aa-dirty`` in a checkout with changes."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return __version__
    try:
        told = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"],  # noqa: S607
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+{told.stdout.strip()}"
