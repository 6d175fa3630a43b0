"""Write files and objects so that readers see the old or the new one, never a half."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fsspec


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file by way of a temporary one in the same folder, which is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put(filesystem: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write a file of any fsspec file system; object stores show an object only when it is whole."""
    # The command line imports this module and is to show its help at once.
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):
        write_atomic(Path(path), data)
    else:
        filesystem.pipe_file(path, data)
