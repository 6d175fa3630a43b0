"""What a report reads of a dataset. Every access to the store is here; all else works on plain arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import yaml

from sdoml_dist.errors import UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.history import History, read_history
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.finalise import PATH as STATISTICS
from sdoml_dist.store.reader import as_store, open_product, open_products
from sdoml_dist.store.repository import BRANCH, open_repository
from sdoml_dist.store.storage import join, sidecar_filesystem
from sdoml_dist.store.template import group_path

# Slots that are read at once: with nine channels of float64 about 10 MB per column, whatever the cadence.
_SLOTS_AT_ONCE = 1 << 17


class DatasetView:
    """One product of a dataset at one version, as a report needs it.

    Parameters
    ----------
    url, version, **options
        As in :func:`sdoml_dist.open_dataset`.

    Attributes
    ----------
    name, description, url, snapshot : str
        What is being looked at.
    product, title : str
        Name of the product, and its name for people.
    has_images : bool
        Whether a channel has an image per slot, or a number.
    channels : tuple of str
        Channels in the order of the columns of every table.
    cadence_s : int
        Spacing of the slots.
    slots : int
        Number of slots of the period.
    """

    def __init__(
        self, url: str | Store, version: str | None = None, product: str | None = None, **options: Any
    ) -> None:
        self._store = as_store(url, **options)
        opened = open_product(self._store, version, product)
        self._root, self._recipe, session = opened.group, opened.recipe, opened.session
        self._years = Plan(self._recipe).years()
        contents = self._recipe.contents
        self.name, self.description = self._recipe.name, self._recipe.description
        self.product, self.title, self.has_images = opened.name, contents.title, contents.kind == "images"
        self.url, self.snapshot, self.version = self._store.url, str(session.snapshot_id), version
        self.channels = tuple(self._recipe.channels)
        self.cadence_s = int(self._recipe.cadence)
        self.slots = Plan(self._recipe).slots

    @classmethod
    def products(cls, url: str | Store, version: str | None = None, **options: Any) -> list[DatasetView]:
        """Return a view of every product of a dataset."""
        return [cls(url, version, one.name, **options) for one in open_products(url, version, **options)]

    @property
    def start(self) -> np.datetime64:
        """First slot, UTC."""
        year, (first, _) = min(self._years.items())
        first_time: np.datetime64 = slot_times(year, self.cadence_s, first, first + 1)[0]
        return first_time

    @property
    def end(self) -> np.datetime64:
        """End of the period, exclusive, UTC."""
        return self._recipe.period.last

    @property
    def image_size(self) -> str:
        """What there is per slot, for people."""
        return f"{self._recipe.grid.pixels} × {self._recipe.grid.pixels} pixels" if self.has_images else "one number"

    @property
    def source(self) -> str:
        """Where the frames came from."""
        return f"{self._recipe.source.kind}, level {self._recipe.level}"

    @cached_property
    def unit(self) -> str:
        """Unit of the values, or units by channel."""
        group = self._group(min(self._years))
        units = {name: str(group[name].attrs.get("units", "")) for name in self.channels}
        if len(set(units.values())) == 1:
            return units[self.channels[0]]
        return ", ".join(f"{self.label(name)} in {unit}" for name, unit in units.items())

    def label(self, channel: str) -> str:
        """Return the name of a channel for people; number and unit stay on one line."""
        return f"{AIA[channel].wavelength_angstrom}\N{NO-BREAK SPACE}Å" if channel in AIA else channel

    def colormap(self, channel: str) -> str:
        """Return the name of the colour table of a channel."""
        return self._recipe.contents.channels[channel].colormap

    def is_signed(self, channel: str) -> bool:
        """Whether values of both signs are meant, around 0."""
        return self._recipe.contents.channels[channel].symmetric

    def _group(self, year: int) -> Any:
        return self._root[group_path(year)]

    def pieces(self, step: int = 1) -> Iterator[tuple[int, int, int]]:
        """Yield (year, start, stop), in order of time; pieces are small and start at multiples of `step` slots."""
        size = max(_SLOTS_AT_ONCE // step, 1) * step
        for year, (first, last) in sorted(self._years.items()):
            for start in range(first, last, size):
                yield year, start, min(start + size, last)

    def times(self, year: int, start: int, stop: int) -> np.ndarray:
        """Return the times of slots, ``datetime64[ns]`` UTC."""
        return slot_times(year, self.cadence_s, start, stop)

    def has(self, path: str) -> bool:
        """Whether there is such a table."""
        return path in self._group(min(self._years))

    def means(self, year: int, start: int, stop: int) -> np.ndarray:
        """Return the mean of each image, or the number itself where there are no images, shape (slots, channels)."""
        if self.has_images:
            return self.table("moments/mean", year, start, stop)
        group = self._group(year)
        return np.stack([np.asarray(group[name][start:stop], dtype=np.float64) for name in self.channels], axis=1)

    def table(self, path: str, year: int, start: int, stop: int) -> np.ndarray:
        """Return rows of ``status``, ``keywords/...`` or ``moments/...``, shape (slots, channels)."""
        return np.asarray(self._group(year)[path][start:stop])

    def image(self, year: int, slot: int, channel: str) -> np.ndarray:
        """Return one image, NaN = no data."""
        return np.asarray(self._group(year)[channel][slot])

    def observed(self, year: int, slot: int) -> np.ndarray:
        """Return the observation times of one slot, ``datetime64[ns]``, shape (channels,)."""
        if not self.has("keywords/T_OBS"):
            return np.repeat(self.times(year, slot, slot + 1), len(self.channels))
        return self.table("keywords/T_OBS", year, slot, slot + 1)[0].astype("datetime64[ns]")

    def record(self, year: int, slot: int, channel: str) -> dict[str, Any]:
        """Return the record of one frame: where it came from, and what was wrong with it."""
        bundle = self._recipe.contents.bundle_of(channel).name
        text = str(self._group(year)[f"headers/{bundle}"][slot])
        record: dict[str, Any] = json.loads(text) if text else {}
        return record

    def statistics(self) -> pd.DataFrame | None:
        """Return the statistics per channel, the columns of quantiles being their levels; None if there are none."""
        if STATISTICS not in self._root:
            return None
        stored = {
            name: np.asarray(self._root[f"{STATISTICS}/{name}"][...])
            for name in ("count", "mean", "std", "minimum", "maximum", "quantile", "level")
        }
        columns: dict[Any, np.ndarray] = {name: stored[name] for name in ("count", "mean", "std", "minimum", "maximum")}
        columns |= {float(level): stored["quantile"][:, i] for i, level in enumerate(stored["level"])}
        return pd.DataFrame(columns, index=list(self.channels))

    def recipe_text(self) -> str:
        """Return the recipe as YAML."""
        data = self._recipe.model_dump(mode="json")
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100))

    def attributes(self) -> dict[str, Any]:
        """Return fingerprint, plan, calibration, software and references."""
        return dict(self._root.attrs)

    def tags(self) -> dict[str, str]:
        """Return the snapshot of every tag."""
        repository = open_repository(self._store)
        return {name: str(repository.lookup_tag(name)) for name in sorted(repository.list_tags())}

    def commits(self, most: int) -> tuple[list[dict[str, str]], int]:
        """Return the newest commits of this version, from new to old, and the number of all."""
        listed: list[dict[str, str]] = []
        number = 0
        for number, info in enumerate(open_repository(self._store).ancestry(snapshot_id=self.snapshot), 1):
            if number <= most:
                written = info.written_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
                listed.append({"snapshot": str(info.id), "written": written, "message": str(info.message)})
        return listed, number

    def is_newest(self) -> bool:
        """Whether this version is the newest commit."""
        return str(open_repository(self._store).lookup_branch(BRANCH)) == self.snapshot

    def runs(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """Return the records of the latest runs, from new to old, and the number of all; none if out of reach."""
        try:
            filesystem, folder = sidecar_filesystem(self._store)
            found = sorted(filesystem.glob(join(folder, "runs", "*", "run.json")), reverse=True)
            return [json.loads(filesystem.cat_file(path)) for path in found[:most]], len(found)
        except (OSError, ValueError):
            return [], 0

    def history(self) -> History | None:
        """Return the history of the latest run that finished a unit, or None if there is none or it is out of reach."""
        try:
            return read_history(self._store)
        except (UsageError, OSError, ValueError, KeyError):
            return None
