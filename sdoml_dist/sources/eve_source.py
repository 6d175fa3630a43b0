"""Simulated EVE line files as a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.eve_simulator import eve_file_name, eve_lines_fits

_HOUR_NS = 3_600_000_000_000


class EveSimulatorSource:
    """Hourly files of lines that are made when they are fetched.

    Parameters
    ----------
    config : SimulationConfig
        The simulated mission; its rates of missing and cut-off files count, its flags are EVE's own.
    """

    sees_changes = False

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Nothing has to be prepared."""

    def _dice(self, hour: np.datetime64) -> float:
        return float(np.random.default_rng([self.config.seed, 61, int(hour.astype(np.int64) // _HOUR_NS)]).uniform())

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the files that begin in [start, end)."""
        first, last = (-(-int(time.astype("datetime64[ns]").astype(np.int64)) // _HOUR_NS) for time in (start, end))
        hours = [np.datetime64(index * _HOUR_NS, "ns") for index in range(first, last)]
        return [
            FrameRecord(bundle, hour, f"simulator:eve/{hour}")
            for hour in hours
            if self._dice(hour) >= self.config.missing_rate
        ]

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: files are made one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Make a file."""
        data = eve_lines_fits(self.config, record.time)
        cut = self._dice(record.time) < self.config.missing_rate + self.config.corrupt_rate
        return data[: int(len(data) * 0.6)] if cut else data

    def files(self, channel: str, start: np.datetime64, end: np.datetime64) -> Iterator[tuple[str, FrameRecord]]:
        """Yield the path below a folder and the record of every file that begins in [start, end)."""
        for record in self.candidates(channel, start, end):
            yield f"eve/{eve_file_name(record.time)}", record
