"""The folder of magnetograms of the far side: a FITS file for every set, and tables of all sets and frames.

A file says itself what it was made of: its keyword SDOMLKEY is a hash of the network and of the set's frames. So what is
there is known whatever became of the tables.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

import numpy as np

from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.euvi_files import DUPLICATE, EuviFile
from sdoml_dist.sources.fits import read_header
from sdoml_dist.store.folder import Folder
from sdoml_dist.store.storage import environment_fault, join, os_errors

logger = logging.getLogger("sdoml")

SETS, FRAMES = "sets.csv", "frames.csv"
KEY = "SDOMLKEY"
"""Keyword of what a file was made of."""

_HEADER_BYTES = 8 * 2880
_THREADS = 16


class SetStatus(StrEnum):
    """What became of a set of frames."""

    PENDING = "pending"
    """Not done: the run was stopped before."""
    OK = "ok"
    """There is a magnetogram."""
    INCOMPLETE = "incomplete"
    """A channel has no frame that is near enough and can be used."""
    BAD_FRAME = "bad_frame"
    """A frame could not be read, although its header could."""
    NO_LIGHT = "no_light"
    """The median of a frame over the disc is not positive: it shows no Sun."""
    NO_REFERENCE = "no_reference"
    """The dataset has no observation of the time when these longitudes faced Earth, or none that can be used."""
    FAILED = "failed"
    """The network failed, workers died, or something was not delivered; the same command tries it again."""


REMEMBERED = (SetStatus.BAD_FRAME, SetStatus.NO_LIGHT, SetStatus.NO_REFERENCE)
"""What stays as it is while network and frames do."""


@dataclass(frozen=True)
class SetRow:
    """A row of ``sets.csv``.

    Attributes
    ----------
    name : str
        Spacecraft and time, for example ``STEREO_A_20110305_001000``.
    spacecraft : str
        ``STEREO_A`` or ``STEREO_B``.
    time : str
        Of the set's first frame, UTC.
    separation_deg : float
        Stonyhurst longitude of the spacecraft, west positive.
    status : str
        A :class:`SetStatus`.
    reason : str
        Why there is no magnetogram.
    file : str
        The magnetogram; empty where there is none.
    frames : str
        Paths of the frames, in the order of the network's channels, with ``;`` in between.
    folder : str
        Where the frames were looked for.
    key : str
        Hash of the network and of the frames.
    """

    name: str
    spacecraft: str
    time: str
    separation_deg: float
    status: str
    reason: str
    file: str
    frames: str
    folder: str
    key: str


class FarSideFolder(Folder):
    """Where magnetograms of the far side lie.

    Parameters
    ----------
    store : Store
        Its address; ``s3://`` and ``gs://`` take credentials from the environment.
    """

    @staticmethod
    def file_name(name: str) -> str:
        """Return the name of a set's file."""
        return f"{name}_field.fits"

    def put(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises
        ------
        EnvironmentFault
            If the storage refuses or does not answer.
        """
        with self._faults(f"Writing {path}"):
            super().put(path, data)

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            with os_errors():
                yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise environment_fault(error, self.store, doing) from error

    def keys(self, names: Iterable[str]) -> dict[str, str]:
        """Return what magnetograms that are there were made of: their keys, by name of the set."""
        with self._faults("Looking for magnetograms"):
            try:
                there = {str(path).rpartition("/")[2] for path in self.filesystem.ls(self.root, detail=False)}
            except FileNotFoundError:
                return {}
            wanted = [name for name in names if self.file_name(name) in there]
            with ThreadPoolExecutor(_THREADS) as pool:
                return dict(zip(wanted, pool.map(self._key, wanted), strict=True))

    def _key(self, name: str) -> str:
        path = join(self.root, self.file_name(name))
        try:
            return str(read_header(self.filesystem.cat_file(path, start=0, end=_HEADER_BYTES)).get(KEY, ""))
        except FrameError:
            return ""

    def sets(self) -> list[SetRow]:
        """Return what is known of sets from before, of all folders."""
        try:
            return [
                SetRow(**row | {"separation_deg": float(row["separation_deg"])})  # type: ignore[arg-type]
                for row in self._rows(SETS)
            ]
        except (TypeError, KeyError, ValueError):
            logger.warning("%s in %s is not as it was written; it is made anew", SETS, self.url)
            return []

    def write_sets(self, rows: Sequence[SetRow]) -> None:
        """Write the table of sets, in the order of time; those of other folders stay in it."""
        folders, names = {row.folder for row in rows}, {row.name for row in rows}
        others = [row for row in self.sets() if row.folder not in folders and row.name not in names]
        ordered = sorted([*rows, *others], key=lambda row: (row.time, row.name))
        self._write(SETS, [one.name for one in fields(SetRow)], [asdict(row) for row in ordered])

    def files(self) -> dict[tuple[str, str], EuviFile]:
        """Return what is known of files from before, by path and state; those that failed are not known."""
        found = {}
        try:
            for row in self._rows(FRAMES):
                if row["status"] == DUPLICATE or row["status"].startswith(("failed", "missing")):
                    continue
                found[row["path"], row["state"]] = EuviFile(
                    row["path"], int(row["size"]), row["state"], row["spacecraft"], int(row["wavelength"]),
                    np.datetime64(row["time"], "ns"), float(row["separation_deg"]), row["status"], row["detail"],
                )  # fmt: skip
        except (TypeError, KeyError, ValueError):
            logger.warning("%s in %s is not as it was written; it is made anew", FRAMES, self.url)
            return {}
        return found

    def write_frames(self, folder: str, files: Sequence[EuviFile], use: Mapping[str, str]) -> None:
        """Write the table of frames; those of other folders stay in it.

        Parameters
        ----------
        folder : str
            Where they were looked for.
        files : sequence of EuviFile
            All files of the folder.
        use : mapping of str to str
            What each is used for, by path.
        """
        columns = [*(one.name for one in fields(EuviFile)), "use", "folder"]
        paths = {one.path for one in files}
        others = [
            row for row in self._rows(FRAMES)
            if row.keys() == set(columns) and row["folder"] != folder and row["path"] not in paths
        ]  # fmt: skip
        mine = [asdict(one) | {"use": use.get(one.path, ""), "folder": folder} for one in files]
        self._write(FRAMES, columns, [*others, *mine])

    def _rows(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a table, none where it is not there or is none of ours."""
        try:
            with self._faults(f"Reading {name}"):
                text = self.filesystem.cat_file(join(self.root, name)).decode("utf-8")
        except FileNotFoundError:
            return []
        return list(csv.DictReader(io.StringIO(text)))

    def _write(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        out = io.StringIO()
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.put(name, out.getvalue().encode())
