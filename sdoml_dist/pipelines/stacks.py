"""Co-rotated means of magnetograms: for every slot the frames around it, each registered, turned to one time and averaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sdoml_dist.pipelines.frames import Frame, chosen_frames, frames
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.calibrate import CalibratedFrame, needed, positive
from sdoml_dist.solar.geometry import Pointing
from sdoml_dist.solar.hmi import calibrate_hmi
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.stacking import Stack, corotated
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.solar.tracking import View
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.fits import read_fits

CADENCE_S = 45
"""Spacing of the magnetograms (JSOC, hmi.M_45s)."""
# A frame farther from its place in the series than half the cadence is another one.
_REACH_S = CADENCE_S // 2


@dataclass
class _Growing:
    """A stack under way: the frame in the middle, and the sum so far."""

    middle: CalibratedFrame | None = None
    view: View | None = None
    header: dict[str, Any] = field(default_factory=dict)
    stack: Stack | None = None


class StackPipeline:
    """Make units of co-rotated means; made once per worker.

    Parameters
    ----------
    recipe : Recipe
        The recipe, of product ``hmi_stack``.
    source : Source
        Where magnetograms come from.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source = recipe, source
        self.settings = recipe.settings

    def process(self, unit: Unit, slots: np.ndarray) -> Work:
        """Process the given slots of a unit.

        Parameters
        ----------
        unit : Unit
            The unit.
        slots : numpy.ndarray
            Slots of the year to do, shape (frames,).
        """
        work = Work.empty(self.recipe, unit, slots.size)
        bundle = self.recipe.bundle(unit.bundle)
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        first = unit.shard * self.recipe.shard_slots
        for row, found in enumerate(self._chosen(bundle, times)):
            if isinstance(found, FrameRecord):
                image = self._stack(bundle, found, row, work)
            else:
                image = None
                self._account(work, row, found.status, {"source": None, "detail": found.detail or None}, times[row])
            if image is not None:
                work.store_image(row, 0, slots[row] - first, image)
        return work

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        """Return the SOURCE_ID that each slot would get now, shape (frames,)."""
        bundle, times = self.recipe.bundle(unit.bundle), slot_times(unit.year, self.recipe.cadence)[slots]
        ids = []
        for found in self._chosen(bundle, times):
            if not isinstance(found, FrameRecord):
                ids.append(-1)
                continue
            ids.append(_joint_id(chosen_frames(self.source, bundle.name, self._times(found), _REACH_S)))
        return np.array(ids, np.int64)

    def _chosen(self, bundle: Bundle, times: np.ndarray) -> Iterator[FrameRecord | Frame]:
        """Yield the frame in the middle of each stack, or what is to be said of a slot without one."""
        try:
            middles = chosen_frames(self.source, bundle.name, times, self.recipe.tolerance)
        except FrameError as error:
            for _ in times:
                yield Frame(error.status, detail=error.detail)
            return
        for middle in middles:
            yield Frame(FrameStatus.MISSING_NO_FRAME) if middle is None else middle

    def _times(self, middle: FrameRecord) -> np.ndarray:
        """Return the times of a stack: the middle first, because the others are brought to it; then in order."""
        stack = self.recipe.stack
        steps = np.array([0, *(step for step in range(-stack.before, stack.after + 1) if step)])
        moments: np.ndarray = middle.time + (steps * CADENCE_S).astype("timedelta64[s]")
        return moments

    def _stack(self, bundle: Bundle, middle: FrameRecord, row: int, work: Work) -> np.ndarray | None:
        """Make one stack and account for it; None if there is no image."""
        settings, growing = self.recipe.stack, _Growing()
        times = self._times(middle)
        records: list[FrameRecord | None] = []
        left_out: list[dict[str, Any]] = []
        told: dict[str, Any] = {"source": middle.locator}
        status = FrameStatus.OK
        for number, frame in enumerate(frames(self.source, bundle.name, times, _REACH_S)):
            frame.use(partial(self._add, bundle, growing))
            work.read_bytes += frame.read_bytes
            records.append(frame.record)
            if frame.status is FrameStatus.OK:
                continue
            if number == 0:
                status, told["detail"] = frame.status, frame.detail
                break
            reason = {"time": str(times[number].astype("datetime64[s]")), "status": frame.status.label}
            left_out.append(reason | ({"detail": frame.detail} if frame.detail else {}))
        image = None
        if status is FrameStatus.OK and growing.stack is not None and growing.middle is not None:
            told |= {"frames": growing.stack.frames, "left_out": left_out, "header": growing.header}
            if growing.stack.frames < settings.minimum:
                status = FrameStatus.MISSING_TOO_FEW
                told["detail"] = f"{growing.stack.frames} of {settings.frames} frames, {settings.minimum} are asked for"
            else:
                image = growing.stack.mean(settings.minimum)
                if not np.isfinite(image).any():
                    image, status = None, FrameStatus.FAILED_NO_DATA
                    told["detail"] = f"no pixel is valid in {settings.minimum} frames"
                else:
                    work.store_keywords(row, growing.middle.keywords | {"FRAMES": growing.stack.frames})
        if len(records) == times.size:
            work.keywords["SOURCE_ID"][row] = _joint_id(records)
        else:
            work.keywords["SOURCE_ID"][row] = _joint_id(
                chosen_frames(self.source, bundle.name, times, _REACH_S)
            )  # fmt: skip
        self._account(work, row, status, told, middle.time)
        return image

    def _add(self, bundle: Bundle, growing: _Growing, frame: Frame) -> np.datetime64:
        """Read a frame, register it, turn it to the time of the middle one, and add it."""
        ((name, content),) = frame.files.items()
        raw, header = read_fits(content)
        made = calibrate_hmi({name: raw}, header, bundle, self.settings)
        image: np.ndarray = made.image.reshape(made.image.shape[-2:])
        keywords = made.keywords
        pointing = Pointing(
            *(float(keywords[key]) for key in ("CRPIX1", "CRPIX2", "CDELT1", "CDELT2", "CROTA2", "RSUN_OBS"))
        )
        view = View.of(
            pointing, needed(header, "CRLN_OBS"), needed(header, "CRLT_OBS"), positive(header, "DSUN_OBS")
        )  # fmt: skip
        if growing.middle is None or growing.view is None or growing.stack is None:
            growing.middle, growing.view, growing.header = made, view, header
            growing.stack = Stack((image.shape[0], image.shape[1]))
        settings = self.recipe.stack
        growing.stack.add(
            corotated(
                image, view, made.time, growing.view, growing.middle.time, rates=settings.rotation,
                minimum_mu=settings.minimum_mu,
            )
        )  # fmt: skip
        return made.time

    def _account(self, work: Work, row: int, status: FrameStatus, told: dict[str, Any], time: np.datetime64) -> None:
        work.status[row] = int(status)
        work.texts.append(
            json.dumps({key: value for key, value in told.items() if value is not None or key == "source"}, default=str,
                       separators=(",", ":"))
        )  # fmt: skip
        if status.outcome == "failed":
            work.note(f"{work.channels[0]} {time}: {status.label}: {told.get('detail')}")


def _joint_id(records: list[FrameRecord | None]) -> int:
    """Return a number that changes when any file of a stack does, appears or vanishes; positive, 60 bits."""
    text = "|".join(str(record.source_id) if record else "-" for record in records)
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)
