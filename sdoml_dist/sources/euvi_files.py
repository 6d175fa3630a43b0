"""A folder of EUVI files, known by their headers: of thousands of frames no pixel is read before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from sdoml_dist.errors import EnvironmentFault, UsageError
from sdoml_dist.recipe_sources import Network
from sdoml_dist.solar.euvi import CHANNELS, EuviFrame, check_euvi
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.download import attempts, fetch_bytes
from sdoml_dist.sources.euvi import read_euvi
from sdoml_dist.sources.fits import read_header

GLOB = "**/*.f*ts"
"""Names of the files: .fts as SECCHI's pipeline writes them, and .fits."""
OK = FrameStatus.OK.label
DUPLICATE = "rejected_duplicate"
"""Status of a file that repeats a frame; unlike those of :class:`FrameStatus` it is of a folder, not of a dataset."""
NO_TIME = np.datetime64("NaT", "ns")

# Headers of EUVI have some 200 cards, 6 blocks; those that are longer are read again up to the longest that is parsed.
_BLOCKS = (16, 400)
_BLOCK_BYTES = 2880
_NETWORK = Network(concurrency=16)
_STATE = ("size", "mtime", "ETag", "etag", "LastModified", "updated")


@dataclass(frozen=True)
class EuviFile:
    """A file, and what its header says.

    Attributes
    ----------
    path : str
        Path or address.
    size : int
        Bytes; -1 if unknown.
    state : str
        What changes when the file does: time of its last change, or the name that an object store gives to its content.
    spacecraft : str
        ``STEREO_A`` or ``STEREO_B``; empty if the file is no frame that can be used.
    wavelength : int
        Angstrom; 0 likewise.
    time : numpy.datetime64
        Middle of the exposure, UTC; NaT likewise.
    separation_deg : float
        Stonyhurst longitude of the spacecraft, west positive; NaN likewise.
    status : str
        ``ok``, or the label of the :class:`FrameStatus` that says why it cannot be used.
    detail : str
        What was found.
    """

    path: str
    size: int
    state: str
    spacecraft: str = ""
    wavelength: int = 0
    time: np.datetime64 = NO_TIME
    separation_deg: float = float("nan")
    status: str = OK
    detail: str = ""

    @property
    def channel(self) -> str:
        """The channel of AIA that it stands for."""
        return CHANNELS[self.wavelength]

    def read(self, settings: CalibrationSettings) -> EuviFrame:
        """Read and calibrate the frame.

        Raises
        ------
        FrameError
            With the status that says why it cannot be used.
        """
        size = self.size if self.size >= 0 else None
        return read_euvi(fetch_bytes(self.path, _NETWORK, size=size), settings)


def look_into_folder(
    url: str, settings: CalibrationSettings, known: Mapping[tuple[str, str], EuviFile] | None = None
) -> list[EuviFile]:  # fmt: skip
    """Read the headers of all files below a folder.

    Parameters
    ----------
    url : str
        Local folder or any address of fsspec.
    settings : CalibrationSettings
        Limits of the exposure.
    known : mapping, optional
        What is known from before by path and state: these files are not read again.

    Returns
    -------
    list of EuviFile
        Every file, in the order of paths. Of several frames of one spacecraft, channel and second all but the first are
        ``rejected_duplicate``.

    Raises
    ------
    UsageError
        If there is no such file.
    EnvironmentFault
        If the place cannot be listed, or does not answer after all retries.
    """
    listing = _listing(url)
    there = dict(known or {})

    def look(path: str, state: str, size: int) -> EuviFile:
        return there.get((path, state)) or _look_into(path, state, size, settings)

    with ThreadPoolExecutor(_NETWORK.concurrency) as pool:
        try:
            files = list(pool.map(look, *zip(*listing, strict=True)))
        finally:
            pool.shutdown(cancel_futures=True)
    return _without_repetitions(files)


def _listing(url: str) -> list[tuple[str, str, int]]:
    """Return path, state and size of every file."""
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.invalidate_cache()
    try:
        found = filesystem.glob(f"{root.rstrip('/')}/{GLOB}", detail=True)
        if url.startswith(("http://", "https://")):
            # A web server's listing gives names only.
            with ThreadPoolExecutor(_NETWORK.concurrency) as pool:
                found = dict(zip(found, pool.map(filesystem.info, found), strict=True))
    except Exception as error:
        raise EnvironmentFault(
            f"The files at {url} cannot be listed: {type(error).__name__}: {error}", "",
            "Check address, network and credentials.",
        ) from error  # fmt: skip
    files = {path: details for path, details in found.items() if details.get("type") != "directory"}
    if not files:
        raise UsageError(f"There is no file {GLOB} below {url}.", "", "Give the folder that holds the FITS files.")
    local = isinstance(filesystem, LocalFileSystem)
    return [
        (str(path) if local else filesystem.unstrip_protocol(path), _state(details), _size(details))
        for path, details in sorted(files.items())
    ]


def _state(details: Mapping[str, Any]) -> str:
    return "|".join(str(details[key]) for key in _STATE if details.get(key) is not None)


def _size(details: Mapping[str, Any]) -> int:
    size = details.get("size")
    return -1 if size is None else int(size)


def _look_into(path: str, state: str, size: int, settings: CalibrationSettings) -> EuviFile:
    try:
        about = check_euvi(_header(path), settings)
    except FrameError as error:
        return EuviFile(path, size, state, status=error.status.label, detail=error.detail)
    return EuviFile(path, size, state, about.spacecraft, about.wavelength, about.time, about.separation_deg)


def _header(path: str) -> dict[str, Any]:
    """Return the header of a file's first image.

    Raises
    ------
    FrameError
        If it is not there, or no header.
    """
    for blocks in _BLOCKS:
        beginning = _beginning(path, blocks * _BLOCK_BYTES)
        try:
            header: dict[str, Any] = read_header(beginning)
            return header
        except FrameError:
            if blocks == _BLOCKS[-1] or len(beginning) < blocks * _BLOCK_BYTES:
                raise
    raise AssertionError


def _beginning(path: str, size: int) -> bytes:
    filesystem, place = fsspec.core.url_to_fs(path)
    problem: Exception | None = None
    for _ in attempts(_NETWORK):
        try:
            start: bytes = filesystem.cat_file(place, start=0, end=size)
            return start
        except FileNotFoundError:
            raise FrameError(FrameStatus.MISSING_AT_SOURCE, "the file was there when the folder was listed") from None
        except PermissionError as error:
            raise FrameError(FrameStatus.FAILED_READ, str(error)) from None
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            problem = error
    raise EnvironmentFault(
        f"{path} cannot be read: {type(problem).__name__}: {problem} ({_NETWORK.retries + 1} attempts)",
        "Which sets there are is known when the header of every file is.",
        "Try again later.",
    )


def _without_repetitions(files: Sequence[EuviFile]) -> list[EuviFile]:
    """Mark frames that are there twice, as of two levels of processing; the first one stays."""
    seen: dict[tuple[str, int, np.datetime64], str] = {}
    found = []
    for one in files:
        if one.status == OK:
            first = seen.setdefault((one.spacecraft, one.wavelength, one.time.astype("datetime64[s]")), one.path)
            if first != one.path:
                one = replace(one, status=DUPLICATE, detail=f"the same frame as {first}")
        found.append(one)
    return found
