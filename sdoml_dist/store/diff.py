"""What changed between two versions of a dataset: frames, statistics, calibration, recipe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import difference
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.finalise import PATH
from sdoml_dist.store.reader import Opened, open_products
from sdoml_dist.store.template import group_path

_MOST_EXAMPLES = 20
_LABELS = {int(code): code.label for code in FrameStatus}


@dataclass
class ProductDifference:
    """What changed in one product.

    Attributes
    ----------
    product : str
        Name; ``added`` and ``removed`` say whether only one of the versions has it.
    settings : list of str
        Changed keys of the recipe and the calibration tables, one readable line each.
    transitions : Counter of (str, str)
        How many frames went from one reason to another; ``absent`` stands for slots outside the period.
    remade : int
        Frames that are ok in both versions but were made from other bytes or by another calibration.
    values : int
        Frames among those whose mean differs.
    examples : list of str
        The first such frames: channel, time, what happened.
    statistics : dict
        Per channel with a changed mean or standard deviation: old and new of both.
    """

    product: str
    added: bool = False
    removed: bool = False
    settings: list[str] = field(default_factory=list)
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    remade: int = 0
    values: int = 0
    examples: list[str] = field(default_factory=list)
    statistics: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return not (
            self.added
            or self.removed
            or self.settings
            or self.transitions
            or self.remade
            or self.values
            or self.statistics
        )

    def as_data(self) -> dict[str, Any]:
        """Return plain data."""
        data = dict(vars(self))
        data["transitions"] = [
            {"from": before, "to": after, "frames": number} for (before, after), number in self.transitions.items()
        ]
        return data


def compare(url: Any, old: str, new: str | None = None, **options: Any) -> list[ProductDifference]:
    """Compare two versions.

    Parameters
    ----------
    url, **options
        As in :func:`sdoml_dist.open_dataset`.
    old, new : str
        Tags, snapshot ids or branches; `new` is by default the newest commit.

    Returns
    -------
    list of ProductDifference
        One per product of either version.
    """
    before = {one.name: one for one in open_products(url, old, **options)}
    after = {one.name: one for one in open_products(url, new, **options)}
    found = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            found.append(ProductDifference(name, removed=True))
        elif name not in before:
            found.append(ProductDifference(name, added=True))
        else:
            found.append(_product(before[name], after[name]))
    return found


def _product(old: Opened, new: Opened) -> ProductDifference:
    result = ProductDifference(old.name)
    result.settings = difference(old.recipe.identity(), new.recipe.identity())
    result.settings += difference(old.recipe.period.model_dump(), new.recipe.period.model_dump(), "period.")
    tables: list[Any] = [one.group.attrs["calibration"] for one in (old, new)]
    result.settings += difference(dict(tables[0]), dict(tables[1]), "calibration file ")
    channels = [name for name in new.recipe.channels if name in old.recipe.channels]
    spans = [Plan(one.recipe).years() for one in (old, new)]
    for year in sorted(spans[0].keys() | spans[1].keys()):
        starts, stops = zip(*(span[year] for span in spans if year in span), strict=True)
        _year(result, (old, new), spans, channels, year, min(starts), max(stops))
    for index, name in enumerate(channels):
        values = {}
        for key in ("mean", "std"):
            pair = [_statistic(one, key, one.recipe.channels.index(name)) for one in (old, new)]
            if pair[0] != pair[1] and not np.isnan(pair).all():
                values[key] = (pair[0], pair[1])
        if values:
            result.statistics[channels[index]] = values
    return result


def _statistic(opened: Opened, key: str, column: int) -> float:
    if PATH not in opened.group:
        return float("nan")
    return float(np.asarray(opened.group[f"{PATH}/{key}"][...])[column])


def _year(
    result: ProductDifference, pair: tuple[Opened, Opened], spans: list[dict[int, tuple[int, int]]],
    channels: list[str], year: int, start: int, stop: int,
) -> None:  # fmt: skip
    """Compare the slots of one year."""
    labels, tables = [], []
    for opened, span in zip(pair, spans, strict=True):
        low, high = span.get(year, (0, 0))
        columns = [opened.recipe.channels.index(name) for name in channels]
        inside = (np.arange(start, stop) >= low) & (np.arange(start, stop) < high)
        parts = {}
        for name in ("status", "keywords/SOURCE_ID", "keywords/CALIBRATION", "moments/mean"):
            path = f"{group_path(year)}/{name}"
            if path in opened.group:
                parts[name] = np.asarray(opened.group[path][start:stop])[:, columns]
        status = parts.get("status", np.zeros((stop - start, len(channels)), np.uint8)).astype(np.int64)
        labels.append(np.where(inside[:, None], status, -1))
        tables.append(parts)
    old, new = labels
    times = slot_times(year, pair[1].recipe.cadence, start, stop)
    for before, after in np.unique(np.stack([old[old != new], new[old != new]], axis=1), axis=0):
        key = (_LABELS.get(int(before), "absent"), _LABELS.get(int(after), "absent"))
        result.transitions[key] += int(((old == before) & (new == after)).sum())
    both = (old == int(FrameStatus.OK)) & (new == int(FrameStatus.OK))
    remade = np.zeros_like(both)
    for name in ("keywords/SOURCE_ID", "keywords/CALIBRATION"):
        if all(name in parts for parts in tables):
            remade |= both & (tables[0][name] != tables[1][name])
    values = np.zeros_like(both)
    if all("moments/mean" in parts for parts in tables):
        values = both & (tables[0]["moments/mean"] != tables[1]["moments/mean"])
    result.remade += int(remade.sum())
    result.values += int(values.sum())
    for row, column in np.argwhere((old != new) | remade | values)[: _MOST_EXAMPLES - len(result.examples)]:
        before, after = (_LABELS.get(int(table[row, column]), "absent") for table in labels)
        what = f"{before} -> {after}" if before != after else "made again"
        result.examples.append(f"{channels[column]} {times[row]}: {what}")


def text(differences: list[ProductDifference]) -> str:
    """Describe differences for people."""
    lines = []
    for one in differences:
        if one.empty:
            lines.append(f"{one.product}: no difference")
            continue
        lines.append(f"{one.product}:" + (" new product" if one.added else " no longer there" if one.removed else ""))
        lines += one.settings
        lines += [f"  {number} frames {before} -> {after}" for (before, after), number in one.transitions.most_common()]
        if one.remade or one.values:
            lines.append(f"  {one.remade} frames made again; {one.values} with another mean")
        for channel, changed in one.statistics.items():
            lines += [f"  {channel} {key}: {old:.6g} -> {new:.6g}" for key, (old, new) in changed.items()]
        lines += [f"    {example}" for example in one.examples]
    return "\n".join(lines)
