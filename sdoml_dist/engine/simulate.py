"""Write a simulated mission as files, in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_sources import SimulatorConfig
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.make import make_simulator
from sdoml_dist.sources.simulator import write_calibration

_DAY = np.timedelta64(1, "D")


def write_mission(
    config: SimulationConfig, product: Product, folder: Path, bundles: Sequence[str], start: np.datetime64,
    end: np.datetime64,
) -> int:  # fmt: skip
    """Write the files of [start, end), and for AIA the calibration tables, below a folder, on a connected Ray.

    Parameters
    ----------
    config : SimulationConfig
        The mission.
    product : Product
        What to simulate.
    folder : pathlib.Path
        ``level1/CHANNEL/*.fits``, ``hmi/SERIES/*.fits``, ``eve/*`` and ``calibration/*`` are made in it; every node must
        see it.
    bundles : sequence of str
        Bundles of the product.
    start, end : numpy.datetime64
        Nominal times, UTC.

    Returns
    -------
    int
        Number of files.
    """
    if product.name == "aia":
        write_calibration(config, folder, start - _DAY, end + _DAY)
    source = make_simulator(config, product)
    rows = [{"file": item} for bundle in bundles for item in source.files(bundle, start, end)]

    def write(row: dict[str, Any]) -> dict[str, Any]:
        path, record = row["file"]
        write_atomic(folder / path, source.fetch(record))
        return {"written": 1}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(write, num_cpus=1).take_all()
    return sum(row["written"] for row in made)


def simulate(recipe: Recipe, folder: str, cpus: int | None = None) -> str:
    """Write the simulated mission of a recipe's period and channels, and say where it is."""
    source = recipe.source
    config = (
        source.simulation
        if isinstance(source, SimulatorConfig)
        else SimulationConfig(frame_cadence_s=recipe.cadence, pixels=getattr(source, "pixels", None) or 4096)
    )
    target = Path(folder).absolute()
    with connect(cpus):
        number = write_mission(
            config, recipe.contents, target, [bundle.name for bundle in recipe.bundles], recipe.period.first,
            recipe.period.last,
        )  # fmt: skip
    return f"{number} files of {config.pixels} x {config.pixels} pixels in {target}"
