"""Names that come from elsewhere and become paths: they stay inside their folder."""

from __future__ import annotations


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
