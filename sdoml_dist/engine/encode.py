"""Encode a dataset into a latent catalog: units over an actor pool, resumable."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import time
from dataclasses import dataclass
from typing import Any

from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.engine.network_pool import network_pool, refuse_missing
from sdoml_dist.engine.pool import PoolActor, pooled
from sdoml_dist.engine.progress import Progress
from sdoml_dist.engine.stop import interruptible
from sdoml_dist.errors import ExitCode
from sdoml_dist.paths import refuse_copy
from sdoml_dist.pipelines.encode import Trained, UnitEncoder, catalog_info, encoding_samples
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.catalog import CatalogWriter, catalog_units
from sdoml_dist.store.catalog_folder import CatalogFolder
from sdoml_dist.store.receipt import FileReceipt
from sdoml_dist.training.checkpoint import chosen

logger = logging.getLogger("sdoml")

_DRAIN_S = 120.0
_SAFE = "All files that are there are complete."
# PyTorch with a network of 34 million weights and its activations for a batch.
_WORKER_BYTES = 1_500_000_000


@dataclass
class EncodeSummary:
    """What an encoding did.

    Attributes
    ----------
    exit_code : ExitCode
        Of the command.
    units, resumed_units : int
        Files written by this run, and there before.
    rows, ok : int
        Slots of this run, and those that had an image.
    written_bytes : int
        Bytes of this run.
    seconds : float
        Time of this run.
    actors : int
        Workers.
    """

    exit_code: ExitCode = ExitCode.COMPLETE
    units: int = 0
    resumed_units: int = 0
    rows: int = 0
    ok: int = 0
    written_bytes: int = 0
    seconds: float = 0.0
    actors: int = 0


class EncodeActor(PoolActor):
    """Encodes units."""

    def __init__(self, arguments: dict[str, Any], brake: Any) -> None:
        super().__init__(brake)
        store, catalog = Store(**arguments["store"]), Store(**arguments["catalog"])
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.encoder = UnitEncoder(**arguments | {"store": store, "catalog": catalog, "device": device})

    def name(self, task: str) -> str:
        """Return the unit's name."""
        return task

    def work(self, task: str) -> FileReceipt:
        """Encode a unit."""
        started, clock = time.time(), time.perf_counter()
        done = self.encoder.encode(task)
        return FileReceipt(
            task, done["status"], started=started, seconds=time.perf_counter() - clock, written_bytes=done["bytes"],
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, node=socket.gethostname(),
            phases=done["phases"],
        )  # fmt: skip


def encode(
    checkpoint: str, store: Store, catalog: Store, *, version: str | None = None, rows: int = 1024,
    dtype: str = "float32", log_variance: bool = False, gpus: bool | None = None, cpus: int | None = None,
) -> EncodeSummary:  # fmt: skip
    """Encode a dataset by a trained network, or go on where an earlier run stopped.

    Parameters
    ----------
    checkpoint : str
        Folder of the checkpoint, or of a run, whose best by validation is taken; every node can read it.
    store : Store
        The dataset; it need not be the one of the training, but has its channels.
    catalog : Store
        Where the catalog is made.
    version : str, optional
        Tag or snapshot; by default the newest, and for a catalog that is there its own.
    rows : int
        Slots per unit and file.
    dtype : {"float32", "float16"}
        Of the latents.
    log_variance : bool
        Whether to keep the logarithm of the variance.
    gpus : bool, optional
        Whether an actor takes a GPU; by default if the cluster has any.
    cpus : int, optional
        CPUs of a private Ray.

    Raises
    ------
    StoreError
        If the folder holds a catalog of another snapshot, network or layout.
    EnvironmentFault
        If units cannot be written, or nodes do not share the catalog's folder.
    Stopped
        After a signal; the same command goes on.
    """
    began, summary = time.monotonic(), EncodeSummary()
    checkpoint = str(chosen(checkpoint).absolute())
    trained = Trained(checkpoint)
    refuse_copy(catalog.url, "The catalog")
    with interruptible(_SAFE):
        before = CatalogFolder(catalog).info() if version is None else None
        samples, times = encoding_samples(trained, store, version or (before.snapshot if before else None))
        info = catalog_info(trained, samples, rows, dtype, log_variance)
        writer = CatalogWriter(catalog, info)
        done = writer.begin()
        sizes = {unit.name: unit.stop - unit.start for unit in catalog_units(times, rows)}
        names = list(sizes)
        left = [name for name in names if name not in done]
        summary.resumed_units = len(names) - len(left)
        if summary.resumed_units:
            logger.info("resumed: %d units there, %d left", summary.resumed_units, len(left))
        arguments = {
            "folder": checkpoint, "store": store.model_dump(), "version": samples.snapshot,
            "catalog": catalog.model_dump(), "rows": rows, "dtype": dtype, "log_variance": log_variance,
        }  # fmt: skip
        if left:
            with connect(cpus) as cluster:
                size, fit = network_pool(cluster, "An encoder", _WORKER_BYTES, len(left), gpus, output=catalog)
                summary.actors = min(fit, len(left))
                progress = Progress(sum(sizes[name] for name in left), len(left), noun="slot", stage="encode")
                answers = pooled(EncodeActor, (arguments,), left, size, _DRAIN_S, _SAFE)
                with contextlib.closing(progress), contextlib.closing(answers):
                    for answer in answers:
                        if answer is not None:
                            _count(answer, summary, progress)
            refuse_missing(catalog, sorted(set(names) - writer.begin()), "files of the catalog")
    summary.seconds = time.monotonic() - began
    return summary


def _count(receipt: FileReceipt, summary: EncodeSummary, progress: Progress) -> None:
    """Count a finished unit."""
    progress.add(receipt)
    summary.units += 1
    summary.rows += receipt.status.size
    summary.ok += receipt.outcomes()["ok"]
    summary.written_bytes += receipt.written_bytes
