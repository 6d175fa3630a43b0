"""Networks of image translation applied to datasets; see :mod:`sdoml_dist.pipelines.apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS
from sdoml_dist.solar.translation import GRID_RADIUS_ARCSEC
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.experiment import find_experiment

# What a network holds of an image, per pixel: the published ones take 640 (version 2) and 1000 (version 3).
BYTES_PER_PIXEL = 1_500


class Translator:
    """A trained network that makes one image of another, slot by slot.

    Parameters
    ----------
    folder : path
        Its checkpoint.
    device : str or torch.device
        Where it computes.

    Raises
    ------
    UsageError
        If it is no checkpoint of an image translation.
    """

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        place = Path(folder)
        about = checkpoints.about(place)
        kind = find_experiment(about.get("experiment"))
        if not issubclass(kind, Translation):
            raise UsageError(f"{folder} is a checkpoint of {about.get('experiment')!r}, which translates no images.")
        trained = Trained.load(kind, place)
        self.experiment, self.network = trained.experiment, trained.network.to(device)
        averaged = (place / f"{checkpoints.EMA}.safetensors").is_file()
        self.hash = checkpoints.model_hash(place, checkpoints.EMA if averaged else "generator")
        self.inputs, self.before = self.experiment.applied_inputs(), self.experiment.applied_before()
        self.outputs = {
            name: PRODUCTS[PRODUCT_OF_CHANNEL[name]].channels[name].unit for name in self.experiment.output_names()
        }
        self.pixels, self.radius_arcsec, self.binned = self.experiment.size, GRID_RADIUS_ARCSEC, True
        self.settings: dict[str, Any] = {
            "network": self.experiment.config.network.model_dump(mode="json"), "step": about["step"]
        }  # fmt: skip

    def memory_bytes(self, batch: int) -> int:
        """Return the memory that weights, also while they are read, and what is held of some images take."""
        weights = sum(one.numel() * one.element_size() for one in self.network.parameters())
        # A U-Net takes its images one by one.
        return 2 * weights + (1 if self.experiment.design.generator == "unet" else batch) * BYTES_PER_PIXEL * self.pixels**2

    def run(self, images: np.ndarray, headers: list[dict[str, Any]]) -> np.ndarray:
        """Return made images.

        Parameters
        ----------
        images : numpy.ndarray
            Physical units, shape (B, inputs and those before, Y, X), NaN where there is no data.
        headers : list of dict
            With TIME, the slot: the seed of dropout, so that a slot is made alike by every worker.

        Returns
        -------
        numpy.ndarray
            Physical units, shape (B, outputs, Y, X), float32.
        """
        inputs = torch.from_numpy(np.ascontiguousarray(self.experiment.encode_inputs(images)))
        seeds = [int(header["TIME"].astype("datetime64[s]").astype(np.int64)) for header in headers]
        made = self.experiment.generate(self.network, inputs, seeds)
        return self.experiment.stored(made, images).astype(np.float32, copy=False)
