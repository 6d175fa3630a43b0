"""The life of one unit of an import: published images and lines are taken over as they are, and described."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from sdoml_dist.pipelines.frames import Frame
from sdoml_dist.pipelines.images import ImagePipeline, Made
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_sources import PublishedConfig
from sdoml_dist.solar.calibrate import CalibratedFrame, check_header, needed
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.eve import minute_means
from sdoml_dist.solar.geometry import grid_keywords, rsun_obs_arcsec
from sdoml_dist.solar.hmi import WAVELENGTH_ANGSTROM, check_hmi_header
from sdoml_dist.solar.keywords import copied, number
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import format_fits_time, parse_fits_time, slot_times
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.published import PublishedFrame, PublishedSource, check_grid
from sdoml_dist.sources.published_layout import EVE_GROUP, read_npz

_MINUTE = np.timedelta64(60_000_000_000, "ns")
_ROW = re.compile(r"(\d{4})/([^\[ ]+)\[(\d+)\]")


class ImportPipeline:
    """Make units from a published layout.

    Parameters
    ----------
    recipe : Recipe
        The recipe; its source is a :class:`sdoml_dist.recipe.PublishedConfig`.
    source : PublishedSource
        Where frames come from.

    Raises
    ------
    UsageError
        If the grid of the recipe is not that of the published images.
    """

    def __init__(self, recipe: Recipe, source: PublishedSource) -> None:
        self._pipeline: _Images | _Lines = (
            _Images(recipe, source) if recipe.contents.kind == "images" else _Lines(recipe, source)
        )

    def process(self, unit: Unit, slots: np.ndarray) -> Work:
        """Process the given slots of a unit.

        Parameters
        ----------
        unit : Unit
            The unit.
        slots : numpy.ndarray
            Slots of the year to do, shape (frames,).
        """
        return self._pipeline.process(unit, slots)

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        """Return the SOURCE_ID that each slot would get now, shape (frames,)."""
        return self._pipeline.chosen(unit, slots)


class _Images(ImagePipeline):
    """Images: chosen, fetched and accounted for as level-1 frames are, but never changed."""

    def __init__(self, recipe: Recipe, source: PublishedSource) -> None:
        check_grid(recipe)
        super().__init__(recipe, source)
        assert isinstance(recipe.source, PublishedConfig)
        self._config = recipe.source
        self._channels = {bundle.name: bundle.channels for bundle in recipe.bundles}

    def process(self, unit: Unit, slots: np.ndarray) -> Work:
        work = super().process(unit, slots)
        work.texts = [self._with_origin(text) for text in work.texts]
        return work

    def _with_origin(self, text: str) -> str:
        """Say in a frame's record that it was imported, and from where exactly."""
        data = json.loads(text)
        if data["source"] is None:
            return text
        origin: dict[str, Any] = {"layout": self._config.layout, "url": self._config.url}
        if rows := _ROW.findall(data["source"]):
            origin |= {"year": int(rows[0][0]), "rows": {channel: int(row) for _, channel, row in rows}}
        else:
            origin |= {"files": data["source"].split(" ")}
            origin["keywords"] = "none are published; position and radius are computed from SDO's nominal orbit"
        return json.dumps(data | {"imported": origin}, separators=(",", ":"))

    def _fetch(self, record: FrameRecord) -> dict[str, bytes]:
        wanted = self._channels[record.channel]
        if not record.segments:
            return {wanted[0]: self.source.fetch(record)}
        return {name: self.source.fetch(part) for name, part in record.segments if name in wanted}

    def _make(self, bundle: Bundle, made: Made, frame: Frame) -> np.datetime64:
        record, files = frame.record, frame.files
        assert isinstance(record, PublishedFrame)
        header = made.header = json.loads(record.header)
        if self._config.layout == "sdoml-v1":
            header |= _computed_header(bundle.name, record.time)
        time = (
            check_header(header, AIA[bundle.name], self.settings)
            if self.recipe.product == "aia" and self._config.layout == "sdoml-v2"
            else record.time if self._config.layout == "sdoml-v1" else check_hmi_header(header)
        )  # fmt: skip
        images = []
        for name in bundle.channels:
            if name not in files:
                raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"{name} has no image at {time}")
            image = read_npz(files[name]).astype(np.float32)
            if image.shape != (self.settings.pixels, self.settings.pixels):
                raise FrameError(FrameStatus.FAILED_SHAPE, f"{name} is {image.shape}, expected {self.settings.pixels}")
            if not (np.isfinite(image) & (image != 0)).any():
                raise FrameError(FrameStatus.FAILED_NO_DATA, f"every pixel of {name} is 0 or NaN")
            images.append(image)
        stack = np.stack(images) if len(images) > 1 else images[0]
        made.images = CalibratedFrame(stack, self._keywords(header, time), time)
        return time

    def _keywords(self, header: dict[str, Any], time: np.datetime64) -> dict[str, Any]:
        """Return the stored columns.

        The geometry is that of the grid that SDOML brings every frame to, not the published CRPIX: those are divided
        by the block factor without regard to FITS counting pixels from 1 at their centres, half a pixel off at 512.
        """
        settings = self.settings
        rsun = number(header.get("RSUN_OBS"))
        if rsun is None or rsun <= 0:
            rsun = rsun_obs_arcsec(needed(header, "DSUN_OBS"))
        keywords: dict[str, Any] = (
            copied(header, self.recipe.contents.keywords)
            | grid_keywords(settings.pixels, settings.solar_radius_arcsec, rsun)
            | {"T_OBS": time}
        )
        for name in ("EXPTIME", "DEG_COR", "QUALITY"):
            if (value := number(header.get(name))) is not None:
                keywords[name] = value
        if isinstance(record := header.get("T_REC"), str):
            try:
                keywords["T_REC"] = parse_fits_time(record)
            except ValueError as error:
                raise FrameError(FrameStatus.FAILED_TIME, f"T_REC: {error}") from None
        return keywords


def _computed_header(bundle: str, time: np.datetime64) -> dict[str, Any]:
    """Return what can be said of a frame of v1, which has a name and nothing else."""
    seen = ephemeris(time)
    return {
        "T_OBS": f"{format_fits_time(time)}Z", "DSUN_OBS": seen.dsun_obs_m, "RSUN_OBS": seen.rsun_obs_arcsec,
        "CRLT_OBS": seen.b0_deg, "CRLN_OBS": seen.l0_deg, "HGLT_OBS": seen.b0_deg, "HGLN_OBS": seen.hgln_deg,
        "CAR_ROT": seen.carrington_rotation,
        "WAVELNTH": AIA[bundle].wavelength_angstrom if bundle in AIA else WAVELENGTH_ANGSTROM,
    }  # fmt: skip


class _Lines:
    """Lines: a published row belongs to the minute that it lies in."""

    def __init__(self, recipe: Recipe, source: PublishedSource) -> None:
        assert isinstance(recipe.source, PublishedConfig)
        self.recipe, self.source = recipe, source
        self._origin = {"layout": recipe.source.layout, "url": recipe.source.url}

    def process(self, unit: Unit, slots: np.ndarray) -> Work:
        work = Work.empty(self.recipe, unit, slots.size)
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        when, rows, index, taken = self._rows(times)
        work.status[:] = int(FrameStatus.MISSING_NO_FRAME)
        work.status[taken >= 0] = int(FrameStatus.MISSING_NO_SAMPLE)
        details: dict[int, str] = {}
        places = slots - unit.shard * self.recipe.shard_slots
        no_flags = np.zeros(when.size, np.int64)
        for column, name in enumerate(work.channels):
            values, bad, fault = self.source.line(name, rows)
            means, _, _ = minute_means(when, values[:, None], no_flags, times)
            work.values[name][places] = means[:, 0]
            work.status[np.isfinite(means[:, 0]), column] = int(FrameStatus.OK)
            if fault is not None:
                work.note(f"{name}: {fault}")
                work.status[index[bad], column] = int(fault.status)
                details |= dict.fromkeys(index[bad].tolist(), f"{name}: {fault.detail}")
        work.texts = [self._text(int(row), details.get(slot)) for slot, row in enumerate(taken)]
        work.keywords["SOURCE_ID"][:] = _source_ids(unit.bundle, taken)[:, None]
        work.read_bytes = when.size * len(work.channels) * 4
        return work

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        return _source_ids(unit.bundle, self._rows(times)[3])

    def _rows(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return times, rows and slots of the published rows in these minutes, and per slot its last row or -1."""
        when, rows = self.source.samples(times.min(), times.max() + _MINUTE)
        index = np.searchsorted(times, when, side="right") - 1
        inside = (index >= 0) & (when < times[index] + _MINUTE)
        when, rows, index = when[inside], rows[inside], index[inside]
        taken = np.full(times.size, -1)
        taken[index] = rows
        return when, rows, index, taken

    def _text(self, row: int, detail: str | None) -> str:
        if row < 0:
            return json.dumps({"source": None}, separators=(",", ":"))
        data = {"source": f"{EVE_GROUP}[{row}]", "imported": self._origin | {"row": row}}
        return json.dumps(data | ({"detail": detail} if detail else {}), separators=(",", ":"))


def _source_ids(bundle: str, rows: np.ndarray) -> np.ndarray:
    """Return the SOURCE_ID by row; -1 where there is none."""
    nowhere = np.datetime64(0, "ns")
    found = [FrameRecord(bundle, nowhere, f"{EVE_GROUP}[{row}]").source_id if row >= 0 else -1 for row in rows.tolist()]
    return np.array(found, np.int64)
