"""Shuffled samples per second: the loader on one image per chunk, on SDOML v2's 120 images per chunk, and by way of Ray Data.

python benchmarks/loading.py        (two CPUs, 3 GB of disk, five minutes)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from sdoml_dist.models.transforms import ChannelTransforms
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.dataset import Dataset, write_unit
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.statistics import MOMENTS, describe
from sdoml_dist.training.experiment import Batch
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.order import Order
from sdoml_dist.training.samples import Samples

CHUNK, CADENCE_S, MICRO_BATCH = 120, 720, 8
CHANNELS = tuple(name for product in ("aia", "hmi") for name in PRODUCTS[product].channels)


def write(url: str, v2: Path, frames: int, pixels: int) -> None:
    """Write the same images as a dataset, a shard a day, and as SDOML v2 has them: its chunks hold 120 images.

    They are a fixed scene with noise of its own in every frame, as in benchmarks/reading.py.
    """
    start = np.datetime64("2011-02-15", "s")
    zstd = [BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.bitshuffle)]
    for product in ("aia", "hmi"):
        recipe = parse_recipe(
            {
                "product": product, "name": "loading", "cadence": CADENCE_S, "tolerance": 60,
                "period": {"start": str(start), "end": str(start + frames * CADENCE_S)},
                "grid": {"pixels": pixels}, "source": {"kind": "simulator"}, "store": {"url": url},
            }
        )  # fmt: skip
        dataset = Dataset(Plan(recipe), {})
        receipts = []
        for unit, slots in dataset.pending():
            work = Work.empty(recipe, unit, slots.size)
            work.status[:] = FrameStatus.OK
            for row, moment in enumerate(slot_times(unit.year, CADENCE_S)[slots]):
                work.store_keywords(row, {"T_OBS": moment})
            for column, name in enumerate(work.channels):
                rng = np.random.default_rng(list(name.encode()))
                scene = rng.gamma(2.0, 60.0, (pixels, pixels)).astype(np.float32)
                path = v2 / name
                array = (zarr.open_array(path) if path.exists() else zarr.create_array(
                    path, shape=(frames, pixels, pixels), chunks=(CHUNK, pixels, pixels), dtype="f4", compressors=zstd
                ))  # fmt: skip
                block = work.values[name]
                for row, slot in enumerate(slots):
                    image = scene + rng.normal(0, 3, scene.shape).astype(np.float32)
                    block[slot - unit.shard * recipe.shard_slots] = image
                    for key, value in zip(MOMENTS, describe(image, work.histograms[name][row]), strict=True):
                        work.moments[key][row, column] = value
                first = int((slot_times(unit.year, CADENCE_S)[slots[0]] - start) / np.timedelta64(CADENCE_S, "s"))
                array[first : first + slots.size] = block[slots - unit.shard * recipe.shard_slots]
            texts = ["{}"] * slots.size
            fork = write_unit(dataset.fork_bytes, recipe, unit, slots, work.values, texts, work.histograms)
            receipts.append(Receipt(unit, slots, work.channels, work.status, work.keywords, work.moments, fork))
        dataset.commit(receipts, "written", {})


class V2Reader:
    """Reads the same images from chunks of 120."""

    def __init__(self, folder: Path) -> None:
        self.arrays = [zarr.open_array(folder / name, mode="r") for name in CHANNELS]

    def image(self, row: int, channel: int, _wait: Any) -> np.ndarray:
        """Return an image."""
        return np.asarray(self.arrays[channel][row])


class ReadBatch:
    """What a Ray Data actor does: the same loader reads the rows of a batch."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read some samples."""
        batch = self.loader.read(rows["row"])
        return {name: batch[name].numpy() for name in ("inputs", "mask", "index")}


def clocked(batches: Iterable[Any]) -> tuple[list[Any], float, float]:
    """Return what comes, the seconds until the first, and the seconds of all."""
    began, first, kept = time.perf_counter(), 0.0, []
    for batch in batches:
        first = first or time.perf_counter() - began
        kept.append(batch)
    return kept, first, time.perf_counter() - began


def by_sample(batches: list[Batch]) -> dict[int, np.ndarray]:
    """Return the inputs of each sample."""
    return {
        int(index): np.asarray(inputs)
        for batch in batches
        for index, inputs in zip(batch["index"], batch["inputs"], strict=True)
    }


def by_ray(loader: Loader, rows: np.ndarray, cpus: int) -> tuple[list[Any], float, float]:
    """Read samples through a pool of Ray Data."""
    from sdoml_dist.engine.cluster import connect, ray

    with connect(cpus):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        pool = ray.data.from_items([{"row": int(row)} for row in rows]).map_batches(
            ReadBatch, batch_size=MICRO_BATCH, compute=ray.data.ActorPoolStrategy(size=cpus), num_cpus=1,
            fn_constructor_args=(loader,),
        )  # fmt: skip
        return clocked(pool.iter_batches(batch_size=MICRO_BATCH, batch_format="numpy"))


def main() -> None:
    """Write both layouts, check that all ways give the same, compare their speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=240, help="images of each channel")
    parser.add_argument("--pixels", type=int, default=512, help="side of the stored images")
    parser.add_argument("--size", type=int, default=128, help="side of the images wanted")
    parser.add_argument("--samples", type=int, default=160, help="samples read by the loader")
    parser.add_argument("--slow-samples", type=int, default=8, help="samples read from chunks of 120")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2, help="actors of Ray Data; 0 leaves it out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url, v2 = f"{folder}/dataset", Path(folder) / "v2"
        write(url, v2, options.frames, options.pixels)
        samples = Samples.find(url, CHANNELS)
        assert len(samples) == options.frames
        transforms = ChannelTransforms.default(CHANNELS)
        rows = Order(samples.shards, MICRO_BATCH, seed=1).epoch(0)[: options.samples]
        few = rows[: options.slow_samples]

        def parts(chosen: np.ndarray) -> list[np.ndarray]:
            return [chosen[first : first + MICRO_BATCH] for first in range(0, chosen.size, MICRO_BATCH)]

        loader = Loader(samples, transforms, options.size, threads=options.threads)
        loader.read(few[:1])
        ours, _, seconds = clocked(loader.stream(parts(rows)))
        fast = rows.size / seconds
        other = Loader(samples, transforms, options.size, threads=options.threads)
        other.reader = V2Reader(v2)  # type: ignore[assignment]
        theirs, _, seconds = clocked(other.stream(parts(few)))
        slow = few.size / seconds
        expected = by_sample(ours)
        assert all(np.array_equal(inputs, expected[index]) for index, inputs in by_sample(theirs).items())
        print(
            f"{len(CHANNELS)} channels, {options.pixels} to {options.size} pixels, {options.threads} threads, shuffled: "
            f"{fast:.1f} samples/s here, {slow:.2f} in chunks of {CHUNK}: {fast / slow:.0f} x"
        )
        if not options.cpus:
            return
        answers, first, seconds = by_ray(
            Loader(samples, transforms, options.size, threads=1), rows, options.cpus
        )  # fmt: skip
        found = by_sample(answers)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(inputs, expected[index]) for index, inputs in found.items())
        print(
            f"through Ray Data, {options.cpus} actors: {rows.size / seconds:.1f} samples/s, the first after {first:.1f} s, "
            f"{(rows.size - MICRO_BATCH) / (seconds - first):.1f} samples/s from then on"
        )


if __name__ == "__main__":
    main()
