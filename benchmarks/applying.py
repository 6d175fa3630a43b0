"""Applying a network to a dataset against the bare forward pass of the same network over the same patches.

python -m benchmarks.applying        (one core, 1 GB of disk, two minutes)

Three ways, the same magnetograms: the network alone on patches that are in memory; the worker of ``sdoml apply``, which reads the
next image while the network works on this one, cuts patches, blends them and hands a shard on; and, with --command, the verb with
its Ray and the writing of the dataset.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sdoml_dist.engine.apply import apply
from sdoml_dist.experiments.denoising import Denoising, DenoisingConfig
from sdoml_dist.experiments.denoising_table import Denoiser
from sdoml_dist.pipelines.apply import ShardApplier, all_slots, application, input_samples, output_recipes
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.blending import corners
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.made import Output
from sdoml_dist.training.loop import Loop, Worker


def dataset(store: Store, frames: int, pixels: int) -> None:
    """Build simulated magnetograms."""
    end = str(np.datetime64("2014-03-01", "s") + np.timedelta64(frames, "h"))
    made_by = parse_recipe(
        {
            "name": "applying", "product": "hmi_45s", "channels": ["M_45s"], "cadence": "1h", "tolerance": "22s",
            "period": {"start": "2014-03-01", "end": end}, "grid": {"pixels": pixels}, "store": store.model_dump(),
            "source": {"kind": "simulator", "simulation": {"pixels": pixels}}, "chunking": {"shard_slots": 4},
        }
    )  # fmt: skip
    built = Dataset(Plan(made_by), {})
    worker = Preprocessor(made_by, built.fork_bytes)
    built.commit([worker.process(unit, slots) for unit, slots in built.pending()], "all", {})


def checkpoint(folder: Path, store: Store, narrowing: int) -> Path:
    """Save a network with fresh weights."""
    config = DenoisingConfig.model_validate(
        {
            "data": {"store": store.model_dump(), "split": {"kind": "whole"}, "statistics_samples": 1},
            "network": {"method": "M2", "narrowing": narrowing},
        }
    )  # fmt: skip
    prepared = json.loads(json.dumps(Denoising.prepare(config, folder)))
    experiment = Denoising({"config": config.model_dump(mode="json"), "prepared": prepared})
    place = folder / "checkpoint_00000000"
    place.mkdir(parents=True)
    Loop(experiment, config.training, config.watching, Worker()).save(place, {})
    return place


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--narrowing", type=int, default=2, help="1 is the published network")
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--command", action="store_true", help="run sdoml apply with its Ray, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary).absolute()
        store, output = Store(url=str(folder / "dataset")), Store(url=str(folder / "made"))
        dataset(store, options.frames, options.pixels)
        place = checkpoint(folder / "run", store, options.narrowing)
        denoiser = Denoiser(place)
        applied = application(place)
        samples, opened = input_samples(applied, store, None)
        recipes = output_recipes(applied, "denoising", samples, opened, output, 4)
        there = Output(recipes)
        tasks = there.tasks(all_slots(recipes[0]))
        applier = ShardApplier(str(place), store, samples.snapshot, there.recipes, "cpu")
        images = [applier_image(applier, row) for row in range(len(samples))]
        cut = [patches(image, denoiser) for image in images]
        count = sum(len(batch) for image in cut for batch in image)
        denoiser.network(cut[0][0])
        bare, whole = [], []
        # In turn, so that whatever else the machine does meets both.
        for _ in range(3):
            began = time.perf_counter()
            with torch.no_grad():
                for image in cut:
                    for batch in image:
                        denoiser.network(batch)
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            for task in tasks:
                for _ in applier.make(task):
                    pass
            whole.append(time.perf_counter() - began)
        size = sum(parameter.numel() for parameter in denoiser.network.parameters())
        print(
            f"{len(images)} images of {options.pixels} pixels, {count} patches, {size:,} weights, {options.threads} threads"
        )
        print(f"forward pass alone   {min(bare):8.2f} s   {count / min(bare):8.2f} patches/s")
        print(f"worker of apply      {min(whole):8.2f} s   overhead {min(whole) / min(bare) - 1:+.1%}")
        if options.command:
            began = time.perf_counter()
            apply(str(place), store, output, shard_slots=4, cpus=2)
            print(f"sdoml apply          {time.perf_counter() - began:8.2f} s   Ray and its worker started and ended")


def applier_image(applier: ShardApplier, row: int) -> np.ndarray:
    """Return an image of the dataset."""
    year, slot = int(applier.samples.years[row, 0]), int(applier.samples.slots[row, 0])
    return np.asarray(applier.opened[0].group[f"{year}/{applier.samples.channels[0]}"][slot])


def patches(image: np.ndarray, denoiser: Denoiser) -> list[torch.Tensor]:
    """Return the batches of patches that an image is cut into, as the network takes them."""
    size, places = denoiser.size, corners(image, denoiser.size, denoiser.settings["overlap"])
    limit = denoiser.experiment.config.data.limit_gauss
    all_of = [
        torch.from_numpy(np.clip(np.nan_to_num(image[row : row + size, column : column + size]) / limit, -1, 1))[None]
        for row, column in places
    ]
    return [torch.stack(all_of[first : first + 8]) for first in range(0, len(all_of), 8)]


if __name__ == "__main__":
    main()
