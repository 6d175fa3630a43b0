"""The whole job of a region, full size: HMI files of 4096 pixels to acoustic power and timelines, and what of it is I/O.

python benchmarks/emergence.py [--folder DIR] [--frames 720]     (ten minutes with the files; 15 GB, removed at the end)

A few frames are simulated and written again and again under other times: what is read, decoded, tracked, transformed and
written is of real size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.emergence_plan import EmergencePlan
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.engine.emergence import build_emergence
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.hmi_simulator import HmiSimulatorSource, PlannedRecord, hmi_file_name
from sdoml_dist.store.emergence_reader import Emergence

START = np.datetime64("2011-02-14T23:59:26", "ns")
"""2011-02-15 00:00:00 TAI."""
_DISTINCT = 6


def write_files(plan: EmergencePlan, folder: Path, pixels: int) -> int:
    """Write the files that a plan reads, and return their bytes."""
    product = PRODUCTS["hmi_45s"]
    source = HmiSimulatorSource(SimulationConfig(pixels=pixels), product)
    total = 0
    for quantity in ("V", "M", "Ic"):
        bundle = product.bundle(f"{quantity}_45s")
        blocks = [unit.block for unit in plan.track_units() if unit.quantity == quantity]
        times = np.concatenate([plan.block_times(quantity, block) for block in blocks])  # type: ignore[arg-type]
        originals = []
        for moment in times[: _DISTINCT if quantity == "V" else 2]:
            planned = PlannedRecord(bundle.name, moment, None)
            (record,) = source.candidates(bundle.name, moment, moment + np.timedelta64(1, "s"))
            originals.append((planned.t_rec.encode(), source.fetch(record.segments[0][1])))

        def write(job: tuple[int, np.datetime64], bundle: Any = bundle, originals: Any = originals) -> int:
            index, moment = job
            planned = PlannedRecord(bundle.name, moment, None)
            stamp, data = originals[index % len(originals)]
            # The head of the file alone holds times.
            head = data[:40_000].replace(stamp, planned.t_rec.encode())
            path = folder / hmi_file_name(bundle.series, planned, bundle.segments[0])
            path.write_bytes(head + data[40_000:])
            return len(data)

        with ThreadPoolExecutor(2) as pool:
            total += sum(pool.map(write, enumerate(times)))
    return total


def main() -> None:
    """Write files, build, and print what took how long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", help="where files and dataset go")
    parser.add_argument(
        "--frames", type=int, default=720, help="Dopplergrams; 720 are nine hours, two windows an hour apart"
    )
    parser.add_argument("--pixels", type=int, default=4096, help="of the full disc")
    parser.add_argument("--regions", type=int, default=2, help="regions on the disc")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs of the private Ray")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="emergence-", dir=options.folder))
    try:
        end = START + options.frames * np.timedelta64(45, "s")
        regions = [
            {"number": number + 1, "latitude_deg": 15.0 - 30 * number, "longitude_deg": 20.0 + 10 * number,
             "reference": str(START.astype("M8[s]")), "start": str(START.astype("M8[s]")), "end": str(end.astype("M8[s]"))}
            for number in range(options.regions)
        ]  # fmt: skip
        (folder / "hmi").mkdir()
        recipe = EmergenceRecipe.model_validate(
            {
                "name": "benchmark", "regions": regions, "layout": {"block_frames": 40, "block_windows": 1},
                "source": {"kind": "files", "url": str(folder / "hmi"), "index": "name", "pixels": options.pixels},
                "store": {"url": str(folder / "dataset")},
            }
        )  # fmt: skip
        plan = EmergencePlan(recipe)
        began = time.perf_counter()
        size = write_files(plan, folder / "hmi", options.pixels)
        print(f"files: {size / 1e9:.2f} GB in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        began = time.perf_counter()
        summary = build_emergence(recipe, cpus=options.cpus)
        wall = time.perf_counter() - began
        timeline = Emergence(recipe.store).timeline(1)
        if not np.isfinite(timeline.power).all():
            raise SystemExit("some power is missing: the figures would mean nothing")
        stages = {}
        for name, stage in summary.stages.items():
            done = stage.outcomes.total()
            stages[name] = {
                "done": done, "seconds": round(stage.seconds, 1), "per_s": round(done / stage.seconds, 2),
                "core_s_each": round(stage.busy_s / done, 4),
                "share_reading_decoding": round(stage.read_s / stage.busy_s, 3),
                "share_writing": round(stage.write_s / stage.busy_s, 3),
            }  # fmt: skip
        busy = sum(stage.busy_s for stage in summary.stages.values())
        io = sum(stage.read_s + stage.write_s for stage in summary.stages.values())
        print(
            json.dumps(
                {
                    "frames": options.frames, "regions": options.regions, "windows_each": int(timeline.times.size),
                    "wall_s": round(wall, 1), "busy_core_s": round(busy, 1), "share_io": round(io / busy, 3),
                    "peak_worker_MB": round(summary.peak_memory_bytes / 1e6), "stages": stages,
                },
                indent=1,
            )
        )  # fmt: skip
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
