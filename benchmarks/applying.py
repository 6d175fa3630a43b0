"""Applying a network to a dataset against the bare forward pass of the same network over the same inputs.

python -m benchmarks.applying                          (one core, 1 GB of disk, two minutes)
python -m benchmarks.applying --experiment far-side --narrowing 4

Three ways, the same images: the network alone on inputs that are in memory; the worker of ``sdoml apply``, which reads the next
image while the network works on this one, scales it or cuts it into patches, and hands a shard on; and, with --command, the verb
with its Ray and the writing of the dataset.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdoml_dist.engine.apply import apply
from sdoml_dist.experiments.denoising import Denoising, DenoisingConfig
from sdoml_dist.experiments.denoising_table import Denoiser
from sdoml_dist.experiments.far_side import FarSide, FarSideConfig
from sdoml_dist.pipelines.apply import ShardApplier, all_slots, application, input_samples, output_recipes
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.blending import corners
from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.made import Output
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.loop import Loop, Worker

DATASETS: dict[str, dict[str, Any]] = {
    "denoising": {"product": "hmi_45s", "channels": ["M_45s"], "tolerance": "22s"},
    "far-side": {"product": "aia", "channels": ["304A", "193A", "171A"], "tolerance": "1min"},
}


def dataset(store: Store, frames: int, pixels: int, kind: dict[str, Any]) -> None:
    """Build simulated images."""
    end = str(np.datetime64("2014-03-01", "s") + np.timedelta64(frames, "h"))
    made_by = parse_recipe(
        {
            **kind, "name": "applying", "cadence": "1h",
            "period": {"start": "2014-03-01", "end": end}, "grid": {"pixels": pixels}, "store": store.model_dump(),
            "source": {"kind": "simulator", "simulation": {"pixels": pixels}}, "chunking": {"shard_slots": 4},
        }
    )  # fmt: skip
    built = Dataset(Plan(made_by), calibration_identity(made_by))
    worker = Preprocessor(made_by, built.fork_bytes)
    built.commit([worker.process(unit, slots) for unit, slots in built.pending()], "all", {})


def translation(folder: Path, pixels: int, narrowing: int) -> Path:
    """Save a network of version 2 with fresh weights."""
    config = FarSideConfig.model_validate(
        {"data": {"store": {"url": "none"}, "size": pixels}, "network": {"version": 2, "narrowing": narrowing}}
    )
    settings = {"config": config.model_dump(mode="json"), "prepared": {"snapshot": "none", "pixels": pixels}}
    generator = FarSide(settings).models()["generator"]
    about = settings | {
        "experiment": "far-side", "step": 0, "finished": False, "metrics": {}, "training": settings["config"]["training"],
        "parameters": {"generator": sum(one.numel() for one in generator.parameters())},
    }  # fmt: skip
    place = folder / "checkpoint_00000000"
    place.mkdir(parents=True)
    checkpoints.save(place, {"generator": generator}, {}, about)
    return place


def denoising(folder: Path, store: Store, narrowing: int) -> Path:
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
    parser.add_argument("--experiment", choices=sorted(DATASETS), default="denoising")
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
        dataset(store, options.frames, options.pixels, DATASETS[options.experiment])
        if options.experiment == "denoising":
            place = denoising(folder / "run", store, options.narrowing)
        else:
            place = translation(folder / "run", options.pixels, options.narrowing)
        applied = application(place)
        samples, opened = input_samples(applied, store, None)
        recipes = output_recipes(applied, options.experiment, samples, opened, output, None)
        there = Output(recipes)
        tasks = there.tasks(all_slots(recipes[0]))
        applier = ShardApplier(str(place), store, samples.snapshot, there.recipes, "cpu")
        batches = inputs(applier)
        network = applier.applied.network.eval()
        network(batches[0])
        bare, whole = [], []
        # In turn, so that whatever else the machine does meets both.
        for _ in range(3):
            began = time.perf_counter()
            with torch.no_grad():
                for batch in batches:
                    network(batch)
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            for task in tasks:
                for _ in applier.make(task):
                    pass
            whole.append(time.perf_counter() - began)
        size, count = sum(one.numel() for one in network.parameters()), sum(map(len, batches))
        print(
            f"{len(samples)} images of {options.pixels} pixels, {count} inputs, {size:,} weights, {options.threads} threads"
        )
        print(f"forward pass alone   {min(bare):8.2f} s   {count / min(bare):8.2f} inputs/s")
        print(f"worker of apply      {min(whole):8.2f} s   overhead {min(whole) / min(bare) - 1:+.1%}")
        if options.command:
            began = time.perf_counter()
            apply(str(place), store, output, cpus=2)
            print(f"sdoml apply          {time.perf_counter() - began:8.2f} s   Ray and its worker started and ended")


def inputs(applier: ShardApplier) -> list[torch.Tensor]:
    """Return what goes through the network: patches in batches, or encoded images one by one."""
    loader = Loader(applier.samples, None, applier.applied.pixels, threads=1)
    images = [loader.read(np.array([row]))["physical"].numpy() for row in range(len(applier.samples))]
    if isinstance(applier.applied, Denoiser):
        return [batch for image in images for batch in patches(image[0, 0], applier.applied)]
    return [torch.from_numpy(applier.applied.experiment.encode_inputs(image)) for image in images]


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
