"""Write a simulated mission as files, in parallel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.engine.cluster import connect, ray
from sdoml_dist.recipe import Recipe, SimulatorConfig
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.simulator import mission_frames, planned_frame, write_calibration, write_frame

_DAY = np.timedelta64(1, "D")


def write_mission(
    config: SimulationConfig, folder: Path, channels: tuple[str, ...], start: np.datetime64, end: np.datetime64
) -> int:
    """Write the frames of [start, end) and the calibration tables below a folder, on a connected Ray.

    Parameters
    ----------
    config : SimulationConfig
        The mission.
    folder : pathlib.Path
        ``level1/CHANNEL/*.fits`` and ``calibration/*`` are made in it; every node must see it.
    channels : tuple of str
        Channels.
    start, end : numpy.datetime64
        Nominal times, UTC.

    Returns
    -------
    int
        Number of files.
    """
    write_calibration(config, folder, start - _DAY, end + _DAY)
    rows = [
        {"channel": frame.channel, "time": str(frame.nominal)}
        for frame in mission_frames(config, channels, start, end)
        if frame.fault != "missing"
    ]
    settings = config.model_dump()

    def write(row: dict[str, Any]) -> dict[str, Any]:
        mission = SimulationConfig.model_validate(settings)
        frame = planned_frame(mission, row["channel"], np.datetime64(row["time"], "ns"))
        return {"written": write_frame(mission, folder, frame) is not None}

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
        number = write_mission(config, target, recipe.channels, recipe.period.first, recipe.period.last)
    return f"{number} level-1 files of {config.pixels} x {config.pixels} pixels in {target}"
