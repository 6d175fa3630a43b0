"""Stage one: full-disc frames of a block of time, each read once, cut into the maps of all regions on them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sdoml_dist.emergence_plan import EmergencePlan, Quantity, TrackUnit
from sdoml_dist.emergence_recipe import CADENCE_S
from sdoml_dist.pipelines.frames import Frame, frames
from sdoml_dist.solar.hmi import FullDisc, full_disc
from sdoml_dist.solar.keywords import number
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.tiles import GRID, tile_means
from sdoml_dist.solar.tracking import Patch, View, tracked
from sdoml_dist.solar.velocity import background_velocity, fit_background, spacecraft_velocity
from sdoml_dist.sources.base import Source
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.store.emergence_template import KEYWORDS

_MOST_DETAILS = 5
_SECOND = np.timedelta64(1_000_000_000, "ns")
_FARTHEST = np.timedelta64(CADENCE_S * 1_000_000_000 // 2, "ns")
"""Largest distance of T_OBS from its place in the series: half the cadence, beyond which it belongs to another one."""


@dataclass
class TrackedBlock:
    """What a unit of tracking made.

    Attributes
    ----------
    status : numpy.ndarray
        Code of each frame that was processed, shape (frames,), uint8.
    maps : dict of int to numpy.ndarray
        By number of the region, shape (frames, y, x), float32.
    keywords : dict of int to numpy.ndarray
        By number of the region, shape (frames, columns).
    tiles : dict of int to numpy.ndarray
        By number of the region, shape (frames, tiles).
    records : list of str
        JSON per frame.
    read_s : float
        Seconds that were spent waiting for files and decoding them.
    """

    status: np.ndarray
    maps: dict[int, np.ndarray]
    keywords: dict[int, np.ndarray]
    tiles: dict[int, np.ndarray]
    records: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    read_bytes: int = 0
    read_s: float = 0.0


class Tracker:
    """Cut the maps of regions out of full-disc frames; made once per worker.

    Parameters
    ----------
    plan : EmergencePlan
        The plan.
    source : Source
        Where full-disc frames come from.
    """

    def __init__(self, plan: EmergencePlan, source: Source) -> None:
        self.plan, self.source = plan, source
        pixels = plan.recipe.source_pixels
        self._settings = CalibrationSettings(expected_shape=None if pixels is None else (pixels, pixels))

    def process(self, unit: TrackUnit, mask: np.ndarray | None = None) -> TrackedBlock:
        """Process the frames of a block.

        Parameters
        ----------
        unit : TrackUnit
            The unit.
        mask : numpy.ndarray, optional
            Which frames of the block to do.
        """
        recipe = self.plan.recipe
        bundle = next(b for b in recipe.contents.bundles if b.name == f"{unit.quantity}_45s")
        times = self.plan.block_times(unit.quantity, unit.block)
        if mask is not None:
            times = times[mask]
        regions = [self.plan.axes[region_number] for region_number in unit.regions]
        # Kept for the block alone: each holds the coordinates of its pixels.
        patches = {axes.region.number: self.plan.patch(axes.region) for axes in regions}
        pixels = recipe.tracking.pixels
        block = TrackedBlock(
            np.zeros(times.size, np.uint8),
            {axes.region.number: np.full((times.size, pixels, pixels), np.nan, np.float32) for axes in regions},
            {axes.region.number: np.full((times.size, len(KEYWORDS)), np.nan) for axes in regions},
            {axes.region.number: np.full((times.size, GRID**2), np.nan) for axes in regions},
        )
        waiting = time.perf_counter()
        for row, frame in enumerate(frames(self.source, bundle.name, times, recipe.tolerance)):
            block.read_s += time.perf_counter() - waiting
            frame.use(partial(self._cut, bundle, unit.quantity, times[row], patches, row, block))
            block.status[row] = int(frame.status)
            block.read_bytes += frame.read_bytes
            block.records.append(_text(frame))
            if frame.status.outcome != "ok":
                # It may have been cut out for some regions before something was found wrong with it.
                for axes in regions:
                    for made in (block.maps, block.keywords, block.tiles):
                        made[axes.region.number][row] = np.nan
            if frame.status.outcome == "failed" and len(block.details) < _MOST_DETAILS:
                block.details.append(f"{bundle.name} {times[row]}: {frame.status.label}: {frame.detail}")
            waiting = time.perf_counter()
        return block

    def _cut(
        self, bundle: Bundle, quantity: Quantity, moment: np.datetime64, patches: dict[int, Patch], row: int,
        block: TrackedBlock, frame: Frame,
    ) -> np.datetime64:  # fmt: skip
        """Read a frame and fill its row for every region."""
        ((_, content),) = frame.files.items()
        began = time.perf_counter()
        raw, header = read_fits(content)
        block.read_s += time.perf_counter() - began
        disc = full_disc(raw, header, bundle, self._settings)
        if abs(disc.time - moment) > _FARTHEST:
            raise FrameError(
                FrameStatus.FAILED_TIME, f"the header says {disc.time}, which is no time of the frame at {moment}"
            )
        if not np.isfinite(disc.image).any():
            raise FrameError(FrameStatus.FAILED_NO_DATA, "no pixel is valid")
        view = View.of(disc.pointing, disc.l0_deg, disc.b0_deg, disc.dsun_obs_m)
        image = self._without_background(disc, view) if quantity == "V" else disc.image
        for region_number, patch in patches.items():
            found = tracked(image, view, patch, disc.time, self.plan.recipe.tracking.minimum_mu)
            block.maps[region_number][row] = found
            values = _keywords(disc, header, view, patch, moment, found)
            block.keywords[region_number][row] = [values[name] for name in KEYWORDS]
            if quantity != "V":
                shown = np.abs(found) if quantity == "M" else found
                block.tiles[region_number][row] = tile_means(shown)
        return disc.time

    def _without_background(self, disc: FullDisc, view: View) -> np.ndarray:
        background = self.plan.recipe.power.background
        if background == "none":
            return disc.image
        left: np.ndarray = disc.image - spacecraft_velocity(view, disc.image.shape, disc.velocity_m_s)
        if background == "model":
            left = left - background_velocity(fit_background(left, view), view, left.shape)
        return left


def _keywords(
    disc: FullDisc, header: dict[str, Any], view: View, patch: Patch, moment: np.datetime64, found: np.ndarray
) -> dict[str, float]:
    """Return the columns kept of a frame."""
    longitude = patch.centre_longitude(disc.time)
    _, _, mu = view.pixels(np.array(patch.latitude_deg), np.array(longitude))
    values = {
        name: value
        for name in ("CRLN_OBS", "CRLT_OBS", "DSUN_OBS", "RSUN_OBS", "CROTA2", "OBS_VR", "OBS_VW", "OBS_VN")
        if (value := number(header.get(name))) is not None
    }
    return dict.fromkeys(KEYWORDS, np.nan) | values | {
        "T_OBS": float((disc.time - moment) / _SECOND), "LONGITUDE": longitude, "MU": float(mu),
        "VALID": float(np.isfinite(found).mean()),
    }  # fmt: skip


def _text(frame: Frame) -> str:
    data = {"source": frame.record.locator if frame.record else None}
    if frame.detail:
        data["detail"] = frame.detail
    return json.dumps(data, separators=(",", ":"))
