"""Encoding a dataset into a catalog against the bare forward pass of the same network over the same images.

python -m benchmarks.encoding        (two CPUs, 1 GB of disk, three minutes)

Three ways, the same latents: the network alone on tensors that are in memory; the worker of ``sdoml encode`` on a unit, which
reads, bins, stretches, encodes and writes the file; and the command itself with its Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.loading import CHANNELS, write
from sdoml_dist.engine.encode import encode
from sdoml_dist.experiments.latent_space import LatentSpace, LatentSpaceConfig
from sdoml_dist.pipelines.encode import Trained, UnitEncoder, catalog_info, encoding_samples
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.catalog import CatalogWriter, catalog_units, open_catalog
from sdoml_dist.training.config import Watching
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.loop import Loop, Worker


def checkpoint(folder: Path, dataset: Store, narrowing: int) -> Path:
    """Save the published network with fresh weights."""
    config = LatentSpaceConfig.model_validate(
        {
            "data": {"store": dataset.model_dump(), "channels": CHANNELS, "split": {"kind": "whole"}, "statistics_samples": 8},
            "network": {"narrowing": narrowing},
        }
    )  # fmt: skip
    prepared = LatentSpace.prepare(config, folder)
    experiment = LatentSpace({"config": config.model_dump(mode="json"), "prepared": prepared})
    place = folder / "checkpoint_00000000"
    place.mkdir(parents=True)
    Loop(experiment, config.training, Watching.model_validate({}), Worker()).save(place, {})
    return place


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=96, help="images of twelve channels")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--narrowing", type=int, default=1, help="1 is the published network")
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--command", action="store_true", help="run sdoml encode with its Ray, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = Path(temporary).absolute()
        dataset = Store(url=str(folder / "dataset"))
        write(dataset.url, folder / "v2", options.frames, options.pixels)
        place = checkpoint(folder / "run", dataset, options.narrowing)
        trained = Trained(place)
        samples, times = encoding_samples(trained, dataset, None)
        batches = [batch["inputs"] for batch in Loader(samples, trained.transforms, 128, threads=2).validation(16)]
        trained.encode(batches[0])
        bare, expected = [], np.zeros(0)
        for _ in range(2):
            began = time.perf_counter()
            expected = np.concatenate([trained.encode(inputs)[0] for inputs in batches])
            bare.append(time.perf_counter() - began)
        catalog = Store(url=str(folder / "unit"))
        CatalogWriter(catalog, catalog_info(trained, samples, options.frames, "float32", False)).begin()
        encoder = UnitEncoder(str(place), dataset, samples.snapshot, catalog, options.frames, "float32", False, "cpu")
        units = catalog_units(times, options.frames)
        whole = []
        for _ in range(2):
            began = time.perf_counter()
            for unit in units:
                encoder.encode(unit.name)
            whole.append(time.perf_counter() - began)
        np.testing.assert_allclose(open_catalog(catalog).latents(), expected, rtol=1e-3, atol=1e-4)
        rate = len(samples) / min(bare)
        print(
            f"{len(samples)} images of {len(CHANNELS)} x {options.pixels} pixels, network of {options.threads} threads"
        )
        print(f"forward pass alone   {min(bare):8.2f} s   {rate:8.2f} images/s")
        print(f"worker of encode     {min(whole):8.2f} s   overhead {min(whole) / min(bare) - 1:+.1%}")
        if options.command:
            began = time.perf_counter()
            encode(str(place), dataset, Store(url=str(folder / "latents")), rows=options.frames, cpus=1)
            print(f"sdoml encode         {time.perf_counter() - began:8.2f} s   Ray and its worker started and ended")


if __name__ == "__main__":
    main()
