"""The laws of a dataset, checked from the outside."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr

from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.finalise import PATH, channel_statistics
from sdoml_dist.store.reader import Opened, accounting, open_products
from sdoml_dist.store.statistics import BINS, describe
from sdoml_dist.store.template import NOT_A_TIME, group_path

_CODES = np.array([int(code) for code in FrameStatus], dtype=np.uint8)
_MOST_EXAMPLES = 5
_FIELD_ARCSEC = 0.6 * 4096


@dataclass
class Check:
    """One law: its name, how many things were looked at, and what breaks it."""

    law: str
    looked_at: int = 0
    broken: list[str] = field(default_factory=list)
    warning: bool = False

    def expect(self, good: bool, text: str) -> None:
        """Count one thing, and note it if it is not good."""
        self.looked_at += 1
        if not good:
            self.broken.append(text)


@dataclass
class Result:
    """All checks of a dataset."""

    url: str
    checks: list[Check]

    @property
    def valid(self) -> bool:
        """Whether no law is broken; warnings do not count."""
        return not any(check.broken and not check.warning for check in self.checks)

    def as_data(self) -> dict[str, Any]:
        """Return plain data."""
        return {"url": self.url, "valid": self.valid, "checks": [vars(check) for check in self.checks]}

    def text(self) -> str:
        """Return a table for people."""
        lines = []
        for check in self.checks:
            mark = "ok  " if not check.broken else ("warn" if check.warning else "FAIL")
            lines.append(f"{mark}  {check.law}  ({check.looked_at} looked at)")
            lines += [f"        {text}" for text in check.broken[:_MOST_EXAMPLES]]
            if len(check.broken) > _MOST_EXAMPLES:
                lines.append(f"        ... and {len(check.broken) - _MOST_EXAMPLES} more")
        return "\n".join([*lines, f"{self.url} is {'valid' if self.valid else 'INVALID'}"])


def validate(url: str, version: str | None = None, *, sample: int = 200, **options: Any) -> Result:
    """Check a dataset, finished or not.

    Parameters
    ----------
    url, version, **options
        As in :func:`sdoml_dist.open_dataset`.
    sample : int
        How many frames per channel have their pixels read and compared with status and moments; 0 reads all.

    Returns
    -------
    Result
        One entry per law.
    """
    checks: list[Check] = []
    for opened in open_products(url, version, **options):
        checks += _product_checks(url, version, opened, sample, options)
    return Result(url, checks)


def _product_checks(url: str, version: str | None, opened: Opened, sample: int, options: dict[str, Any]) -> list[Check]:
    recipe, name = opened.recipe, opened.name
    plan = Plan(recipe)
    images = recipe.contents.kind == "images"
    checks = [_accounting(url, version, recipe, options)]
    known, times, grid = (
        Check(f"{name}: every status is a known code"),
        Check(f"{name}: T_OBS is within the tolerance"),
        Check(f"{name}: the Sun has the recipe's radius and place in every frame"),
    )
    outside = Check(f"{name}: nothing is written outside the period")
    pixels = Check(f"{name}: values are there exactly where the status is ok, and give the stored moments")
    for year, (start, stop) in plan.years().items():
        group = opened.group[group_path(year)]
        assert isinstance(group, zarr.Group)
        status = np.asarray(group["status"][:])
        known.expect(bool(np.isin(status, _CODES).all()), f"{year}: {np.setdiff1d(status, _CODES)}")
        beyond = np.count_nonzero(status[:start]) + np.count_nonzero(status[stop:])
        outside.expect(beyond == 0, f"{year}: {beyond} slots")
        if images:
            _keywords(group, recipe, year, start, stop, status, times, grid)
            _pixels(group, recipe, year, start, stop, status, sample, pixels)
        else:
            _values(group, recipe, year, start, stop, status, pixels)
    checks += [
        _calibrations(opened, plan),
        known,
        outside,
        *([times, grid] if images else []),
        pixels,
        _statistics(opened.group, plan),
    ]
    failed = Check(f"{name}: no frame failed", warning=True)
    table = accounting(url, version, product=name, **options)
    for channel in recipe.channels:
        number = int(table["failed"][channel])
        failed.expect(number == 0, f"{channel}: {number} frames failed")
    return [*checks, failed]


def _accounting(url: str, version: str | None, recipe: Recipe, options: dict[str, Any]) -> Check:
    check = Check(f"{recipe.product}: planned = ok + missing + rejected + failed, nothing pending")
    table = accounting(url, version, product=recipe.product, **options)
    for name in recipe.channels:
        row = {key: int(value) for key, value in table.loc[name].items()}
        parts = row["ok"] + row["missing"] + row["rejected"] + row["failed"]
        check.expect(parts == row["planned"], f"{name}: {row['pending']} frames are still pending; run the build again")
    return check


def _keywords(
    group: zarr.Group, recipe: Recipe, year: int, start: int, stop: int, status: np.ndarray, times: Check, grid: Check
) -> None:
    ok = status[start:stop] == int(FrameStatus.OK)
    slots = slot_times(year, recipe.cadence, start, stop)
    read = {
        name: np.asarray(group[f"keywords/{name}"][start:stop])
        for name in ("T_OBS", "CDELT1", "CRPIX1", "CRPIX2", "RSUN_OBS")
    }
    # A frame taken by its file name may be observed some seconds outside; see pipelines.preprocess.
    limit = (recipe.tolerance + 60) * 1_000_000_000
    centre = recipe.grid.pixels / 2 + 0.5
    radius = recipe.grid.pixels * recipe.grid.solar_radius_arcsec / _FIELD_ARCSEC
    for index, name in enumerate(recipe.channels):
        rows = np.flatnonzero(ok[:, index])
        observed = read["T_OBS"][rows, index]
        far = np.abs(observed - slots[rows].astype(np.int64)) > limit
        times.looked_at += rows.size
        times.broken += [f"{name} {slots[row]}" for row in rows[far | (observed == NOT_A_TIME)]]
        with np.errstate(divide="ignore", invalid="ignore"):
            seen = read["RSUN_OBS"][rows, index] / read["CDELT1"][rows, index]
        good = np.abs(seen - radius) < 0.01
        for axis in ("CRPIX1", "CRPIX2"):
            good &= np.abs(read[axis][rows, index] - centre) < 0.01
        grid.looked_at += rows.size
        grid.broken += [f"{name} {slots[row]}" for row in rows[~good]]


def _pixels(
    group: zarr.Group, recipe: Recipe, year: int, start: int, stop: int, status: np.ndarray, sample: int, check: Check
) -> None:
    histogram = np.zeros(BINS, dtype=np.uint32)
    done = status[start:stop] != int(FrameStatus.PENDING)
    for index, name in enumerate(recipe.channels):
        rows = np.flatnonzero(done[:, index]) + start
        if sample and rows.size > sample:
            rows = rows[np.linspace(0, rows.size - 1, sample).round().astype(int)]
        for row in rows:
            image = np.asarray(group[name][row])
            count, mean, variance, low, high = describe(image, histogram)
            label = f"{name} {slot_times(year, recipe.cadence)[row]}"
            if status[row, index] != int(FrameStatus.OK):
                check.expect(count == 0, f"{label}: pixels of a frame that is not ok")
                continue
            stored = [
                group[f"moments/{key}"][row, index] for key in ("count", "mean", "variance", "minimum", "maximum")
            ]
            same = np.allclose([count, mean, variance, low, high], np.array(stored, float), rtol=1e-6, equal_nan=True)
            text = group[f"headers/{recipe.contents.bundle_of(name).name}"][row]
            check.expect(count > 0 and same, f"{label}: pixels and stored moments differ")
            check.expect("header" in json.loads(str(text) or "{}"), f"{label}: header is not stored")
            counts = np.asarray(group[f"histogram/{name}"][row])
            check.expect(bool((counts == histogram).all()), f"{label}: pixels and stored histogram differ")


def _calibrations(opened: Opened, plan: Plan) -> Check:
    check = Check(f"{opened.name}: every frame's calibration is described")
    described: Any = opened.group.attrs.get("calibrations", {})
    for year, (start, stop) in plan.years().items():
        good = np.asarray(opened.group[f"{group_path(year)}/status"][start:stop]) == int(FrameStatus.OK)
        marks = np.asarray(opened.group[f"{group_path(year)}/keywords/CALIBRATION"][start:stop])[good]
        for mark in np.unique(marks):
            check.expect(
                str(mark) in described, f"{year}: {np.count_nonzero(marks == mark)} frames of calibration {mark}"
            )
    return check


def _values(
    group: zarr.Group, recipe: Recipe, year: int, start: int, stop: int, status: np.ndarray, check: Check
) -> None:
    for index, name in enumerate(recipe.channels):
        there = np.isfinite(np.asarray(group[name][start:stop]))
        good = status[start:stop, index] == int(FrameStatus.OK)
        check.expect(bool((there == good).all()), f"{name} {year}: {np.count_nonzero(there != good)} slots")


def _statistics(product: zarr.Group, plan: Plan) -> Check:
    check = Check(f"{plan.recipe.product}: the stored statistics are those of the frames")
    if PATH not in product:
        return check
    for name, value in channel_statistics(product, plan.years(), plan.recipe.channels).items():
        stored = np.asarray(product[f"{PATH}/{name}"][...])
        check.expect(bool(np.array_equal(stored, value, equal_nan=True)), f"{name} differs: run the build again")
    return check
