"""The AIA synoptic tree at JSOC: level 1.5, 1024 pixels, one file every two minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.recipe_sources import SynopticConfig
from sdoml_dist.solar.channels import AIA
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.download import fetch_bytes


class SynopticSource:
    """Frames of the synoptic tree; which exist is learned by asking for them.

    Parameters
    ----------
    config : SynopticConfig
        Address, spacing and cache.
    """

    sees_changes = False

    def __init__(self, config: SynopticConfig) -> None:
        self.config = config

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Nothing has to be prepared: names follow from times."""

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the files that should exist with ``start <= time < end``; times are those of the names."""
        step = self.config.cadence_s * 1_000_000_000
        low, high = (-(-int(time.astype("datetime64[ns]").astype(np.int64)) // step) for time in (start, end))
        wavelength = AIA[bundle].wavelength_angstrom
        records = []
        for index in range(low, high):
            time = np.datetime64(index * step, "ns")
            text = str(time.astype("datetime64[m]"))
            day, clock = text[:10], text[11:]
            name = f"AIA{day.replace('-', '')}_{clock.replace(':', '')}_{wavelength:04d}.fits"
            records.append(FrameRecord(bundle, time, f"{day.replace('-', '/')}/H{clock[:2]}00/{name}"))
        return records

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: files are fetched one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Return the bytes of a file, from the cache if it is there."""
        cached = Path(self.config.cache) / record.locator if self.config.cache else None
        if cached is not None and cached.is_file():
            return cached.read_bytes()
        data = fetch_bytes(f"{self.config.url.rstrip('/')}/{record.locator}", self.config.network)
        if cached is not None:
            write_atomic(cached, data)
        return data
