"""What a worker does with a unit: make it by the product's pipeline, write its shards, hand back the receipt."""

from __future__ import annotations

import os
import resource
import socket
import time

import numpy as np

from sdoml_dist.pipelines.images import ImagePipeline
from sdoml_dist.pipelines.imported import ImportPipeline
from sdoml_dist.pipelines.series import SeriesPipeline
from sdoml_dist.pipelines.stacks import StackPipeline
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe, calibration_id
from sdoml_dist.redact import redact
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.sources.base import Source
from sdoml_dist.sources.make import make_source
from sdoml_dist.sources.published import PublishedSource
from sdoml_dist.store.dataset import write_unit
from sdoml_dist.store.receipt import Receipt


def make_pipeline(recipe: Recipe, source: Source) -> ImagePipeline | SeriesPipeline | ImportPipeline | StackPipeline:
    """Return what makes the units of a recipe."""
    if isinstance(source, PublishedSource):
        return ImportPipeline(recipe, source)
    if recipe.product == "hmi_stack":
        return StackPipeline(recipe, source)
    return ImagePipeline(recipe, source) if recipe.contents.kind == "images" else SeriesPipeline(recipe, source)


class Preprocessor:
    """Process units; made once per worker, with source and pipeline opened once.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    fork_bytes : bytes
        Pickled fork of the driver's session.
    """

    def __init__(self, recipe: Recipe, fork_bytes: bytes) -> None:
        self.recipe, self.fork_bytes = recipe, fork_bytes
        self._pipeline = make_pipeline(recipe, make_source(recipe))
        self._calibration = calibration_id(recipe, calibration_identity(recipe))

    def process(self, unit: Unit, slots: np.ndarray) -> Receipt:
        """Process the given slots of a unit, write its shards and return the receipt.

        Parameters
        ----------
        unit : Unit
            The unit.
        slots : numpy.ndarray
            Slots of the year to do, shape (frames,).
        """
        started, clock = time.time(), time.perf_counter()
        work = self._pipeline.process(unit, slots)
        work.keywords["CALIBRATION"][work.status == int(FrameStatus.OK)] = self._calibration
        work.texts = [redact(text) for text in work.texts]
        made = time.perf_counter()
        fork = write_unit(self.fork_bytes, self.recipe, unit, slots, work.values, work.texts, work.histograms)
        work.spend("write", time.perf_counter() - made)
        return Receipt(
            unit=unit, slots=slots, channels=work.channels, status=work.status, keywords=work.keywords,
            moments=work.moments, fork=fork, started=started, seconds=time.perf_counter() - clock,
            read_bytes=work.read_bytes, node=socket.gethostname(),
            details=[redact(detail) for detail in work.details],
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, phases=work.phases,
            worker=str(os.getpid()),
        )  # fmt: skip
