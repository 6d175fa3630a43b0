"""One worker's time and memory per frame, from files of 4096 pixels to the written shard: what plans are estimated by.

python benchmarks/pipeline.py        (one core, two minutes)
"""

from __future__ import annotations

import pickle
import tempfile
import time
from pathlib import Path

import icechunk
import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.make import make_source
from sdoml_dist.sources.simulator import SimulatorSource
from sdoml_dist.store.dataset import Dataset

FRAMES = 20
START = np.datetime64("2011-02-15T00:00", "ns")


def write(path: Path, data: bytes) -> int:
    """Write a file and return its size."""
    write_atomic(path, data)
    return len(data)


def main() -> None:
    """Process a unit of full-size frames once to warm up and once to measure."""
    config = SimulationConfig(frame_cadence_s=360)
    end = START + FRAMES * np.timedelta64(360, "s")
    with tempfile.TemporaryDirectory() as folder:
        source = SimulatorSource(config)
        sizes = [write(Path(folder) / path, source.fetch(record)) for path, record in source.files("171A", START, end)]
        recipe = parse_recipe(
            {
                "name": "pipeline",
                "period": {"start": str(START)[:19], "end": str(end)[:19]},
                "cadence": "6min",
                "tolerance": "1min",
                "channels": ["171A"],
                "source": {"kind": "files", "url": f"{folder}/level1"},
                "store": {"url": f"{folder}/dataset"},
            }  # fmt: skip
        )
        plan = Plan(recipe)
        dataset = Dataset(plan, calibration_identity(recipe))
        make_source(recipe).prepare(["171A"], START, end)
        worker = Preprocessor(recipe, dataset.fork_bytes)
        ((unit, slots),) = dataset.pending()
        worker.process(unit, slots[:2])
        clock = time.process_time(), time.perf_counter()
        receipt = worker.process(unit, slots)
        cpu, wall = time.process_time() - clock[0], time.perf_counter() - clock[1]
        stored = sum(path.stat().st_size for path in Path(folder).rglob("icechunk/chunks/*"))
        estimate = plan.estimate()
        assert isinstance(pickle.loads(receipt.fork), icechunk.session.ForkSession)
        print(
            f"{receipt.slots.size} frames of {config.pixels} px: {wall / FRAMES * 1e3:.0f} ms a frame ({cpu / FRAMES * 1e3:.0f} "
            f"ms of CPU), {cpu / FRAMES / config.pixels**2:.2g} s of CPU a source pixel; the plan says "
            f"{estimate.core_hours * 3600 / FRAMES * 1e3:.0f} ms"
        )
        print(
            f"peak memory {receipt.peak_memory_bytes / 2**20:.0f} MiB; the plan says "
            f"{estimate.memory_per_actor_bytes / 2**20:.0f} MiB for a whole shard"
        )
        print(
            f"files {np.mean(sizes) / 2**20:.1f} MiB, {np.mean(sizes) / config.pixels**2:.2f} bytes a source pixel; stored "
            f"{stored / FRAMES / (4 * recipe.grid.pixels**2):.2f} of the raw size"
        )


if __name__ == "__main__":
    main()
