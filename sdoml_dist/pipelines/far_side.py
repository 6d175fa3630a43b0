"""Magnetograms of the far side from a folder of EUVI frames: what a worker does with a set, and what a set is known by."""

from __future__ import annotations

import hashlib
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdoml_dist.errors import SdomlError, UsageError
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.experiments.far_side_euvi import FieldMaker, SetError, load_matches, to_fits
from sdoml_dist.experiments.translation_apply import BYTES_PER_PIXEL
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.recipe_base import Store, canonical_json
from sdoml_dist.solar.euvi import EuviFrame, IntensityMatch
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.euvi_files import EuviFile
from sdoml_dist.store.far_side_folder import FarSideFolder, SetStatus
from sdoml_dist.training import checkpoint as checkpoints

logger = logging.getLogger(__name__)

# PyTorch, Ray, and frames of 2048 x 2048 pixels while they are registered.
_WORKER_BYTES = 1_000_000_000
# How the outcomes of sets are counted beside those of frames elsewhere.
_CODES = {
    SetStatus.OK: FrameStatus.OK, SetStatus.NO_LIGHT: FrameStatus.REJECTED_NOT_LIGHT,
    SetStatus.NO_REFERENCE: FrameStatus.MISSING_NO_FRAME, SetStatus.INCOMPLETE: FrameStatus.MISSING_NO_FRAME,
}  # fmt: skip


class FarSideNetwork:
    """A far-side network, ready to be used, and what its results are known by.

    Parameters
    ----------
    checkpoint : path
        A checkpoint of the far-side experiment, or a run: its best by validation, or its newest.
    matches : path, optional
        JSON file of curves of intensities by channel.

    Raises
    ------
    UsageError
        If it is a checkpoint of something else, or the file holds no curves.
    """

    def __init__(self, checkpoint: str | Path, matches: str | Path | None = None) -> None:
        self.place = checkpoints.chosen(checkpoint).absolute()
        self.about = checkpoints.about(self.place)
        if self.about.get("experiment") != "far-side":
            raise UsageError(
                f"{self.place} is a checkpoint of {self.about.get('experiment')!r}, not of far-side.", "",
                "Give a run of 'sdoml train far-side'.",
            )  # fmt: skip
        self.matches: dict[str, IntensityMatch] = {} if matches is None else load_matches(matches)

    @cached_property
    def trained(self) -> Trained:
        """The network with its weights."""
        return Trained.load(FarSide, self.place)

    @cached_property
    def experiment(self) -> FarSide:
        """Its experiment, without weights."""
        return FarSide({"config": self.about["config"], "prepared": self.about["prepared"]})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its results depend on besides their inputs, as plain data.

        Raises
        ------
        UsageError
            If its weights cannot be read.
        """
        averaged = (self.place / f"{checkpoints.EMA}.safetensors").is_file()
        try:
            weights = checkpoints.model_hash(self.place, checkpoints.EMA if averaged else "generator")
        except OSError as error:
            raise UsageError(
                f"The checkpoint {self.place} has no weights that can be read: {error}", "", "Give another checkpoint."
            ) from None
        return {
            "weights": weights,
            "data": self.about["config"]["data"], "network": self.about["config"]["network"],
            "prepared": self.about["prepared"],
            "matches": {channel: curve.to_dict() for channel, curve in sorted(self.matches.items())},
        }  # fmt: skip

    @property
    def settings(self) -> CalibrationSettings:
        """The grid that frames are brought to."""
        return CalibrationSettings(pixels=self.experiment.size)

    def key(self, files: Sequence[EuviFile]) -> str:
        """Return the hash of the network and of the files of a set, 16 hexadecimal digits.

        Files count by name, size and time of their change, so that a folder may be moved.
        """
        inputs = [[Path(one.path).name, one.state] for one in files]
        return hashlib.sha256(canonical_json([self.identity, inputs]).encode()).hexdigest()[:16]


def set_name(first: EuviFile | EuviFrame) -> str:
    """Return the name of a set from its first frame: spacecraft and time."""
    stamp = str(first.time.astype("datetime64[s]")).replace("-", "").replace(":", "").replace("T", "_")
    return f"{first.spacecraft}_{stamp}"


@dataclass(frozen=True)
class SetTask:
    """A set to be done: its name, its files in the order of the network's channels, and the hash of what it is made of."""

    name: str
    files: tuple[EuviFile, ...]
    key: str


@dataclass
class SetAnswer:
    """What became of a set.

    Attributes
    ----------
    unit_id : str
        Name of the set.
    outcome : SetStatus
        What became of it.
    reason : str
        Why there is no magnetogram.
    started, seconds, read_bytes, peak_memory_bytes, node
        For progress, as of :class:`sdoml_dist.store.receipt.Outcome`.
    """

    unit_id: str
    outcome: SetStatus
    reason: str = ""
    started: float = 0.0
    seconds: float = 0.0
    read_bytes: int = 0
    peak_memory_bytes: int = 0
    node: str = ""
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> np.ndarray:
        """Code of the outcome, shape (1,)."""
        return np.array([int(_CODES.get(self.outcome, FrameStatus.FAILED_UNEXPECTED))], np.uint8)

    @property
    def details(self) -> list[str]:
        """What was wrong."""
        return [] if self.outcome is SetStatus.OK else [f"{self.unit_id}: {self.outcome.value}: {self.reason}"]

    def outcomes(self) -> Counter[str]:
        """Count the set by outcome."""
        return Counter({FrameStatus(int(self.status[0])).outcome: 1})


class SetTranslator:
    """Make magnetograms of sets, one in memory at a time; made once per worker.

    Parameters
    ----------
    checkpoint : str
        Checkpoint of the far-side experiment.
    output : Store
        Where files go.
    matches : str, optional
        File of curves.
    device : str
        Where the network computes.
    """

    def __init__(self, checkpoint: str, output: Store, matches: str | None = None, device: str = "cpu") -> None:
        network = FarSideNetwork(checkpoint, matches)
        trained = network.trained
        trained.network.to(device)
        self.maker = FieldMaker(trained, network.matches)
        self.about, self.settings, self.folder = network.about, network.settings, FarSideFolder(output)

    def make(self, task: SetTask) -> SetAnswer:
        """Make the magnetogram of a set and write it.

        Raises
        ------
        EnvironmentFault
            If it cannot be written.
        """
        started, clock = time.time(), time.perf_counter()
        outcome, reason, read = SetStatus.OK, "", 0
        try:
            frames = []
            for one in task.files:
                frames.append(self._read(one))
                read += max(one.size, 0)
            loaded = time.perf_counter()
            data = to_fits(self.maker.make(frames), self.about, task.key)
        except SetError as error:
            outcome, reason = error.status, " ".join(str(error).split())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, SdomlError) as error:
            logger.exception("%s failed", task.name)
            outcome, reason = SetStatus.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            self.folder.put(self.folder.file_name(task.name), data)
        ended = time.perf_counter()
        phases = {"source": loaded - clock, "compute": ended - loaded} if outcome is SetStatus.OK else {}
        return SetAnswer(
            task.name, outcome, reason, started, ended - clock, read,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, socket.gethostname(), phases,
        )  # fmt: skip

    def _read(self, one: EuviFile) -> EuviFrame:
        try:
            return one.read(self.settings)
        except FrameError as error:
            # What did not arrive may do so another time.
            lost = error.status in (FrameStatus.FAILED_DOWNLOAD, FrameStatus.MISSING_AT_SOURCE)
            status = SetStatus.FAILED if lost else SetStatus.BAD_FRAME
            raise SetError(status, f"{one.channel}: {one.path}: {error}") from None


def worker_bytes(network: FarSideNetwork) -> int:
    """Return the memory of a worker: PyTorch, the weights, a set's frames and what the network holds of an image."""
    weights = sum(path.stat().st_size for path in network.place.glob("*.safetensors") if path.stem == "generator")
    return _WORKER_BYTES + 2 * weights + BYTES_PER_PIXEL * network.experiment.size**2
