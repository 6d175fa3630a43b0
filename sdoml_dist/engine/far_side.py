"""Magnetograms of the far side from a folder of EUVI frames: sets over an actor pool, resumable."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.engine.network_pool import network_pool
from sdoml_dist.engine.pool import PoolActor, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.experiments.far_side_euvi import References
from sdoml_dist.pipelines.far_side import FarSideNetwork, SetAnswer, SetTask, SetTranslator, set_name, worker_bytes
from sdoml_dist.recipe_base import Store, parse_duration
from sdoml_dist.sources.euvi import FrameSet, form_sets
from sdoml_dist.sources.euvi_files import DUPLICATE, OK, EuviFile, look_into_folder
from sdoml_dist.store.far_side_folder import REMEMBERED, FarSideFolder, SetRow, SetStatus
from sdoml_dist.store.lease import Lease

logger = logging.getLogger("sdoml")

_DRAIN_S = 120.0
_SAFE = "All magnetograms that are there are complete."
# The table of sets is written so often while sets are made.
_TABLE_S = 30.0


@dataclass
class FarSideSummary:
    """What a run did.

    Attributes
    ----------
    exit_code : ExitCode
        Of the command: 3 unless every set has a magnetogram and every file could be used.
    rows : list of SetRow
        All sets of the folder.
    unused : list of EuviFile
        Files that cannot be used.
    made, resumed : int
        Magnetograms of this run, and there before.
    seconds : float
        Time of this run.
    """

    exit_code: ExitCode = ExitCode.COMPLETE
    rows: list[SetRow] = field(default_factory=list)
    unused: list[EuviFile] = field(default_factory=list)
    made: int = 0
    resumed: int = 0
    seconds: float = 0.0

    @property
    def statuses(self) -> Counter[str]:
        """Sets by status."""
        return Counter(row.status for row in self.rows)


class FarSideActor(PoolActor):
    """Makes magnetograms of sets."""

    def __init__(self, arguments: dict[str, Any], brake: Any) -> None:
        super().__init__(brake)
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.translator = SetTranslator(**arguments | {"output": Store(**arguments["output"]), "device": device})

    def name(self, task: SetTask) -> str:
        """Return the set's name."""
        return task.name

    def work(self, task: SetTask) -> SetAnswer:
        """Make a magnetogram."""
        return self.translator.make(task)

    def lost(self, task: SetTask, why: str) -> SetAnswer:
        """Return a failed set: others can still be done."""
        return SetAnswer(task.name, SetStatus.FAILED, why)


def far_side(
    checkpoint: str | Path, folder: str, output: Store, *, tolerance: str | int = "20min",
    matches: str | Path | None = None, gpus: bool | None = None, cpus: int | None = None, wait_s: float = 0.0,
) -> FarSideSummary:  # fmt: skip
    """Make magnetograms of all frames below a folder, or go on where an earlier run stopped.

    Parameters
    ----------
    checkpoint : path
        A checkpoint of the far-side experiment, or a run: its best by validation, or its newest. Every node can read it.
    folder : str
        Folder or address with FITS files of level 0.5 or 1.
    output : Store
        Where FITS files and the tables ``sets.csv`` and ``frames.csv`` go.
    tolerance : str or int
        Largest distance in time within a set.
    matches : path, optional
        JSON file of curves by channel.
    gpus : bool, optional
        Whether an actor takes a GPU; by default if the cluster has any.
    cpus : int, optional
        CPUs of a private Ray.
    wait_s : float
        How long to wait for another driver.

    Raises
    ------
    UsageError
        If it is a checkpoint of something else, or no set of frames is whole.
    EnvironmentFault
        If magnetograms cannot be written.
    Stopped
        After a signal; the same command goes on.
    """
    began, summary = time.monotonic(), FarSideSummary()
    folder = folder if "://" in folder else str(Path(folder).expanduser().absolute())
    try:
        reach_s = parse_duration(tolerance)
    except ValueError as error:
        raise UsageError(f"The tolerance cannot be used: {error}") from None
    with interruptible(_SAFE):
        network, place = FarSideNetwork(checkpoint, matches), FarSideFolder(output)
        logger.info("weights %s of step %s", network.identity["weights"], network.about["step"])
        files = look_into_folder(folder, network.settings, place.files())
        sets = _sets(network, folder, files, reach_s)
        references = References(network.experiment) if network.experiment.config.network.version == 3 else None
        with Lease(output, "sdoml far-side", wait_s) as lease:
            place.write_frames(folder, files, _uses(sets, files, network.experiment.euv))
            summary.rows, tasks = _left(network, place, folder, sets, references, reach_s)
            summary.unused = [one for one in files if one.status not in (OK, DUPLICATE)]
            summary.resumed = summary.statuses[SetStatus.OK]
            place.write_sets(summary.rows)
            if summary.resumed:
                logger.info("resumed: %d magnetograms there, %d sets left", summary.resumed, len(tasks))
            if tasks:
                arguments = {
                    "checkpoint": str(network.place), "output": output.model_dump(),
                    "matches": None if matches is None else str(Path(matches).absolute()),
                }  # fmt: skip
                with connect(cpus) as cluster:
                    size, _ = network_pool(cluster, "A worker", worker_bytes(network), len(tasks), gpus, output=output)
                    answers = pooled(FarSideActor, (arguments,), tasks, size, _DRAIN_S, _SAFE)
                    with contextlib.closing(answers):
                        _collect(answers, len(tasks), place, summary, lease)
    summary.made = summary.statuses[SetStatus.OK] - summary.resumed
    if summary.statuses[SetStatus.OK] < len(summary.rows) or summary.unused:
        summary.exit_code = ExitCode.FRAMES_FAILED
    summary.seconds = time.monotonic() - began
    return summary


def _sets(network: FarSideNetwork, folder: str, files: Sequence[EuviFile], reach_s: float) -> list[FrameSet[EuviFile]]:
    """Return the sets of a folder, whole or not.

    Raises
    ------
    UsageError
        If none is whole.
    """
    channels = network.experiment.euv
    frames = [one for one in files if one.status == OK and one.channel in channels]
    sets = form_sets(frames, channels, reach_s)
    if all(one.missing for one in sets):
        counts = ", ".join(f"{name} {sum(one.channel == name for one in frames)}" for name in channels)
        bad = [one for one in files if one.status != OK]
        first = (
            f"; {len(bad)} files cannot be used, the first: {bad[0].path}: {bad[0].status}: {bad[0].detail}"
            if bad
            else ""
        )
        raise UsageError(
            f"No set of {', '.join(channels)} is whole in {folder}: within {reach_s:g} s; frames: {counts}{first}",
            "The network needs all of them at a time.",
            "Fetch the other channels, or allow a larger --tolerance.",
        )
    return sets


def _uses(sets: Sequence[FrameSet[EuviFile]], files: Sequence[EuviFile], channels: Sequence[str]) -> dict[str, str]:
    """Return what each frame is used for, by path."""
    use: dict[str, str] = {}
    for one in sets:
        for frame in one.frames:
            use[frame.path] = ";".join(filter(None, (use.get(frame.path), set_name(one.frames[0]))))
    for file in files:
        if file.status == OK and file.path not in use:
            seen = file.channel in channels
            use[file.path] = (
                "none: another frame is nearer" if seen else f"none: the network does not see {file.channel}"
            )
    return use


def _left(
    network: FarSideNetwork, place: FarSideFolder, folder: str, sets: Sequence[FrameSet[EuviFile]],
    references: References | None, reach_s: float,
) -> tuple[list[SetRow], list[SetTask]]:  # fmt: skip
    """Return a row for every set, and tasks for those that there is something to do for."""
    whole = [one for one in sets if not one.missing]
    there = place.keys([set_name(one.frames[0]) for one in whole])
    known = {row.key: row for row in place.sets() if row.status in REMEMBERED}
    without: set[str] = set()
    if references is not None:
        firsts = [one.frames[0] for one in whole]
        found = references.rows([one.time for one in firsts], [one.separation_deg for one in firsts])
        without = {one.path for one, row in zip(firsts, found, strict=True) if row < 0}
    rows, tasks, others = [], [], 0
    for one in sets:
        first, key = one.frames[0], network.key(one.frames)
        row = SetRow(
            set_name(first), first.spacecraft, str(first.time.astype("datetime64[ms]")), first.separation_deg,
            SetStatus.PENDING.value, "", "", ";".join(frame.path for frame in one.frames), folder, key,
        )  # fmt: skip
        if one.missing:
            reason = f"no frame of {', '.join(one.missing)} within {reach_s:g} s that can be used"
            row = replace(row, status=SetStatus.INCOMPLETE.value, reason=reason)
        elif first.path in without:
            assert references is not None
            error = references.missing(first.spacecraft, first.time, first.separation_deg)
            row = replace(row, status=SetStatus.NO_REFERENCE.value, reason=" ".join(str(error).split()))
        elif there.get(row.name) == key:
            row = replace(row, status=SetStatus.OK.value, file=place.file_name(row.name))
        elif key in known:
            row = replace(row, status=known[key].status, reason=known[key].reason)
        else:
            others += row.name in there
            tasks.append(SetTask(row.name, one.frames, key))
        rows.append(row)
    if others:
        logger.info("%d magnetograms there are of another network or of other frames; they are made again", others)
    return rows, tasks


def _collect(answers: Any, number: int, place: FarSideFolder, summary: FarSideSummary, lease: Lease) -> None:
    """Read a pool to its end; whatever ends it, the table says what became of every set."""
    places = {row.name: at for at, row in enumerate(summary.rows) if row.status == SetStatus.PENDING}
    progress, written = Progress(number, number, noun="set", stage="far-side"), time.monotonic()
    try:
        for answer in answers:
            if answer is not None:
                at = places[answer.unit_id]
                file = place.file_name(answer.unit_id) if answer.outcome is SetStatus.OK else ""
                summary.rows[at] = replace(
                    summary.rows[at], status=answer.outcome.value, reason=answer.reason, file=file
                )
                progress.add(answer)
            if time.monotonic() - written >= _TABLE_S:
                lease.check()
                place.write_sets(summary.rows)
                written = time.monotonic()
    finally:
        progress.close()
        place.write_sets(summary.rows)
