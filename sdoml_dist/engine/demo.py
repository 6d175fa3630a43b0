"""The whole way on one machine: simulate level-1 files, build the dataset, draw it, read it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from sdoml_dist.engine.cluster import connect
from sdoml_dist.engine.run import build
from sdoml_dist.engine.simulate import write_mission
from sdoml_dist.errors import ExitCode
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_file import load_recipe
from sdoml_dist.report.quicklook import quicklook
from sdoml_dist.report.text import accounting_table, reading_lines, run_line
from sdoml_dist.solar.simulation import Fault, SimulationConfig
from sdoml_dist.sources.simulator import POINTING_NAME, TABLE_NAME
from sdoml_dist.store.reader import frames

# Faults at known places, so that the accounting shows every kind of outcome.
_FAULTS = (
    ("171A", 1, "missing"),
    ("304A", 2, "missing"),
    ("94A", 2, "flagged"),
    ("1600A", 3, "flagged"),
    ("211A", 4, "eclipse"),
    ("335A", 5, "corrupt"),
    ("131A", 5, "dark"),
    ("193A", 6, "not_fits"),
)


def demo_recipe(folder: Path) -> Recipe:
    """Return the shipped demo recipe, working below a folder."""
    simulated = folder / "simulated"
    return load_recipe(
        "demo",
        [
            f"source.url={simulated / 'level1'}",
            f"calibration.degradation.url={simulated / 'calibration' / TABLE_NAME}",
            f"calibration.pointing.url={simulated / 'calibration' / POINTING_NAME}",
            f"store.url={folder / 'dataset'}",
        ],
    )


def demo_simulation(recipe: Recipe) -> SimulationConfig:
    """Return the simulated mission of the demo."""
    step = np.timedelta64(recipe.cadence, "s")
    faults = tuple(
        Fault(channel=channel, time=str((recipe.period.first + slot * step).astype("datetime64[s]")), kind=kind)
        for channel, slot, kind in _FAULTS
    )
    return SimulationConfig(frame_cadence_s=recipe.cadence, faults=faults)


def demo(folder: str, cpus: int | None = None) -> int:
    """Run the demo below a folder, print what it did, and return the exit code of its build.

    Frames that failed on purpose are part of the demo: it succeeds if the accounting holds.
    """
    from sys import stdout

    def say(text: str) -> None:
        stdout.write(text + "\n")
        stdout.flush()

    began = time.monotonic()
    target = Path(folder).absolute()
    recipe = demo_recipe(target)
    config = demo_simulation(recipe)
    with connect(cpus):
        if not (target / "simulated" / "complete").is_file():
            say(f"Simulating AIA level 1 ({config.pixels} x {config.pixels} pixels, nine channels) ...")
            number = write_mission(
                config, recipe.contents, target / "simulated", recipe.channels, recipe.period.first, recipe.period.last
            )
            (target / "simulated" / "complete").write_text(f"{number} files\n", encoding="ascii")
            say(f"  {number} Rice-compressed FITS files in {time.monotonic() - began:.0f} s")
        say("Building the dataset ...")
        summary = build(recipe, verb="demo")
    say(f"  {run_line(summary)}\n")
    say(accounting_table(recipe.store))
    table = frames(recipe.store, details=True)
    for _, row in table[~table.outcome.isin(["ok"])].iterrows():
        say(
            f"  {row.time:%H:%M} {row.channel:>5}  {row.reason:<18} {row.detail if isinstance(row.detail, str) else ''}"
        )
    picture = quicklook(recipe.store.url, target / "quicklook.png")
    say(
        f"\nlevel-1 files  {target / 'simulated' / 'level1'}\ndataset        {recipe.store.url}\nquicklook      {picture}"
    )
    say("\nRead it in Python:\n")
    say(reading_lines(recipe.store.url, str(table.time[0])[:19].replace(" ", "T")))
    say(f"\n{time.monotonic() - began:.0f} s in all")
    counts = table.outcome.value_counts()
    complete = counts.get("pending", 0) == 0 and counts.get("ok", 0) > 0
    return int(ExitCode.COMPLETE if complete else summary.exit_code)
