"""Export a dataset into a published layout: units over an actor pool, resumable."""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import socket
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.engine.cluster import Cluster, connect, grown
from sdoml_dist.engine.network_pool import refuse_missing, refuse_unshared
from sdoml_dist.engine.pool import PoolActor, PoolSize, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.errors import EnvironmentFault, ExitCode, StoreError, UsageError
from sdoml_dist.paths import refuse_copy
from sdoml_dist.recipe_base import Store, difference
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.store.export import Exporter
from sdoml_dist.store.export_plan import ExportPlan, ExportUnit, Layout, plan_export
from sdoml_dist.store.folder import Folder
from sdoml_dist.store.reader import Opened, as_store, open_products
from sdoml_dist.store.receipt import FileReceipt
from sdoml_dist.store.storage import environment_fault, join

logger = logging.getLogger("sdoml")

_THREADS = 16
_DRAIN_S = 120.0
_SAFE = "All files that are there are complete."
_WORKER_BASE_BYTES = 450 * 2**20
_BYTES_PER_HEADER = 8192


@dataclass
class ExportSummary:
    """What an export did.

    Attributes
    ----------
    exit_code : ExitCode
        The exit code of the command.
    snapshot : str
        The version that was exported.
    units, resumed_units : int
        Units written by this run, and units that were there before.
    frames : int
        Images or rows of lines in all.
    written_bytes : int
        Bytes written by this run.
    seconds : float
        Time of this run.
    places : list of str
        Stores (v2) or folders (v1) below the output.
    """

    exit_code: ExitCode
    snapshot: str = ""
    units: int = 0
    resumed_units: int = 0
    frames: int = 0
    written_bytes: int = 0
    seconds: float = 0.0
    places: list[str] = field(default_factory=list)


class Output(Folder):
    """The folder or bucket that is written to.

    Parameters
    ----------
    store : Store
        Its address; ``s3://`` and ``gs://`` take credentials from the environment.
    """

    def get(self, path: str) -> bytes | None:
        """Read a file; None if it is not there."""
        try:
            data: bytes = self.filesystem.cat_file(join(self.root, path))
        except FileNotFoundError:
            return None
        return data

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.filesystem.rm_file(join(self.root, path))

    def names(self, folder: str) -> set[str]:
        """Return the names in a folder, as it is now."""
        self.filesystem.invalidate_cache()
        try:
            found = self.filesystem.ls(join(self.root, folder), detail=False)
        except FileNotFoundError:
            return set()
        return {str(path).rstrip("/").rsplit("/", 1)[-1] for path in found}


class ExportActor(PoolActor):
    """Writes units of an export."""

    def __init__(
        self, store: dict[str, Any], snapshot: str, layout: Layout, output: dict[str, Any], brake: Any
    ) -> None:
        super().__init__(brake)
        self._output, self._write_s = Output(Store(**output)), 0.0
        self.exporter = Exporter(Store(**store), snapshot, layout, self._put)

    def _put(self, path: str, data: bytes) -> None:
        clock = time.perf_counter()
        self._output.put(path, data)
        self._write_s += time.perf_counter() - clock

    def name(self, task: ExportUnit) -> str:
        """Return the unit's identity."""
        return task.unit_id

    def work(self, task: ExportUnit) -> FileReceipt:
        """Write a unit; its frames are those that are ok, and attributes have none."""
        started, clock, self._write_s = time.time(), time.perf_counter(), 0.0
        written = self.exporter.write(task)
        seconds = time.perf_counter() - clock
        return FileReceipt(
            task.unit_id, np.full(_frames(task), int(FrameStatus.OK), np.uint8),
            () if task.kind == "tables" else (task.channel,), started=started, seconds=seconds, written_bytes=written,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, node=socket.gethostname(),
            phases={"compute": max(seconds - self._write_s, 0.0), "write": self._write_s},
        )  # fmt: skip


def export(
    url: str | Store, output: str, *, layout: Layout = "sdoml-v2", product: str | None = None,
    version: str | None = None, channels: Sequence[str] | None = None, chunk_frames: int = 120, cpus: int | None = None,
    **options: Any,
) -> ExportSummary:  # fmt: skip
    """Export a dataset into a layout that SDOML was published in, or go on where an earlier run stopped.

    Parameters
    ----------
    url : str
        The dataset.
    output : str
        Folder, ``s3://`` or ``gs://`` address; the stores or the tree are made below it.
    layout : {"sdoml-v2", "sdoml-v1"}
        Zarr stores of format 2, or a tree of ``.npz``.
    product : str, optional
        Just this one.
    version : str, optional
        Tag or snapshot; by default the newest.
    channels : sequence of str, optional
        Just these.
    chunk_frames : int
        Images per chunk of v2; SDOML's own writer has 15, its small public store 120.
    cpus : int, optional
        CPUs of a private Ray.
    **options
        Options of the stores: ``endpoint_url``, ``region``, ``anonymous`` (of the dataset).

    Returns
    -------
    ExportSummary
        What was written.

    Raises
    ------
    StoreError
        If the output holds the export of another version, or one with other options.
    UsageError
        If the layout cannot hold what is asked for.
    EnvironmentFault
        If files cannot be written, nodes do not share the output's folder, or files are not there at the end; those that
        are there are complete.
    Stopped
        After a signal; the same command goes on.
    """
    if layout not in ("sdoml-v1", "sdoml-v2"):
        raise UsageError(f"There is no layout {layout!r}; there are sdoml-v1 and sdoml-v2.")
    if chunk_frames < 1:
        raise UsageError(f"chunk_frames is {chunk_frames}; it must be at least 1.")
    refuse_copy(output, "The export")
    started = time.monotonic()
    opened = open_products(url, version, product=product, channels=channels, **options)
    store = as_store(url, **options)
    target = Store(url=output, **{name: value for name, value in options.items() if name != "anonymous"})
    place, snapshot = Output(target), opened[0].session.snapshot_id
    summary = ExportSummary(ExitCode.COMPLETE, snapshot)
    with interruptible(_SAFE):
        try:
            plans = [_begin(one, layout, channels, chunk_frames, place) for one in opened]
            values, attributes = _left(plans, place, summary)
        except OSError as error:
            raise environment_fault(error, target, "Preparing the export") from error
        summary.places = sorted({join(place.url, unit.array.split("/")[0]) for plan in plans for unit in plan.units})
        if summary.resumed_units:
            logger.info("resumed: %d units there, %d left", summary.resumed_units, len(values) + len(attributes))
        if values or attributes:
            places = (store.model_dump(), snapshot, layout, target.model_dump())
            with connect(cpus) as cluster:
                memory, cluster = _memory(opened, chunk_frames, values + attributes, cluster)
                refuse_unshared(target, cluster)
                progress = Progress(sum(map(_frames, values)), len(values) + len(attributes), stage="export")
                # An array that has its attributes is complete, so they come behind all values.
                with contextlib.closing(progress):
                    for units in (values, attributes):
                        _run(units, places, memory, cluster, summary, progress)
                        refuse_missing(target, _missing(units, place), "files")
    summary.seconds = time.monotonic() - started
    return summary


def _begin(
    opened: Opened, layout: Layout, channels: Sequence[str] | None, chunk_frames: int, output: Output
) -> ExportPlan:
    """Claim the output for one product at one version, and return its plan."""
    chosen = tuple(name for name in opened.recipe.channels if channels is None or name in channels)
    plan = plan_export(opened, layout, chosen, chunk_frames)
    identity = {
        "product": opened.name, "layout": layout, "snapshot": opened.session.snapshot_id,
        "fingerprint": opened.recipe.fingerprint, "channels": list(chosen),
        "chunk_frames": chunk_frames if layout == "sdoml-v2" else None,
    }  # fmt: skip
    name = f"sdoml-export-{opened.name}.json"
    before = output.get(name)
    if before is None:
        output.put(name, json.dumps(identity, indent=1).encode())
    else:
        lines = difference(json.loads(before), identity)
        if lines:
            old = json.loads(before)["snapshot"]
            raise StoreError(
                f"{output.url} holds another export of {opened.name}:\n" + "\n".join(lines),
                "Frames of two versions in one array could not be told apart.",
                f"Export to another folder, or go on with that one (version {old} and the same options).",
            )
    for path, data in plan.metadata.items():
        if output.get(path) != data:
            output.put(path, data)
    return plan


def _left(
    plans: Iterable[ExportPlan], output: Output, summary: ExportSummary
) -> tuple[list[ExportUnit], list[ExportUnit]]:
    """Return the units of values and those of attributes whose files are not all there."""
    units = [unit for plan in plans for unit in plan.units]
    summary.frames = sum(map(_frames, units))
    there = _there(units, output)
    values = [unit for unit in units if unit.kind != "attributes" and not there[unit.array].issuperset(unit.files)]
    incomplete = {unit.array for unit in values}
    attributes = []
    for unit in units:
        if unit.kind != "attributes":
            continue
        written = unit.files[0] in there[unit.array]
        if written and unit.array in incomplete:
            output.remove(join(unit.array, unit.files[0]))
        if not written or unit.array in incomplete:
            attributes.append(unit)
    summary.resumed_units = len(units) - len(values) - len(attributes)
    return values, attributes


def _there(units: Iterable[ExportUnit], output: Output) -> dict[str, set[str]]:
    """Return the names of the files that are there, by folder."""
    folders = sorted({unit.array for unit in units})
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(folders, pool.map(output.names, folders), strict=True))


def _missing(units: list[ExportUnit], output: Output) -> list[str]:
    """Return the files of units that are not there."""
    there = _there(units, output)
    return [join(unit.array, name) for unit in units for name in unit.files if name not in there[unit.array]]


def _memory(
    opened: list[Opened], chunk_frames: int, units: list[ExportUnit], cluster: Cluster
) -> tuple[int, Cluster]:
    """Return what one actor may take, bytes: a unit's values twice over, or the text of an array's keywords.

    The cluster is returned as it is when such an actor fits.

    Raises
    ------
    EnvironmentFault
        If no node has a CPU and that much.
    """
    pixels = max((one.recipe.grid.pixels**2 for one in opened if one.recipe.contents.kind == "images"), default=1)
    most = 0
    for unit in units:
        if unit.kind == "attributes":
            most = max(most, 2 * unit.count * (_BYTES_PER_HEADER if unit.product != "eve" else 0))
        else:
            values = unit.count * 39 * 4 if unit.kind == "tables" else max(unit.count, unit.chunk_frames) * pixels * 4
            most = max(most, 3 * (values if unit.product != "eve" or unit.kind == "tables" else 2**23))
    memory = _WORKER_BASE_BYTES + most
    cluster = grown(cluster, 1, memory)
    if lines := cluster.misfits(f"A worker ({chunk_frames} images per chunk)", 1, memory):
        raise EnvironmentFault(
            ". ".join(lines) + ".", "Nothing was started.", "Lower chunk_frames in another folder, or use a larger node."
        )
    return memory, cluster


def _run(
    units: list[ExportUnit], places: tuple[Any, ...], memory: int, cluster: Cluster, summary: ExportSummary,
    progress: Progress,
) -> None:  # fmt: skip
    """Write units in a pool of actors."""
    fit = cluster.room(1, memory)
    size = PoolSize(fit if cluster.private else 1, fit if cluster.private else max(len(units), 1), 1, memory)
    with contextlib.closing(pooled(ExportActor, places, units, size, _DRAIN_S, _SAFE)) as receipts:
        for receipt in receipts:
            if receipt is not None:
                progress.add(receipt)
                summary.units += 1
                summary.written_bytes += receipt.written_bytes


def _frames(unit: ExportUnit) -> int:
    """Return how many frames a unit writes; attributes are about those of their array."""
    return 0 if unit.kind == "attributes" else unit.count
