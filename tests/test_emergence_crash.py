"""Emergence datasets under faults: of frames, of sources, of drivers and workers that are killed; retries; memory."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
import zarr
from astropy.io import fits

from sdoml_dist.cli import main
from sdoml_dist.emergence_plan import QUANTITIES, STAGES, EmergencePlan, Quantity, TrackUnit, frame_number, frame_times
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.engine.emergence import _announce
from sdoml_dist.errors import EnvironmentFault, ExitCode
from sdoml_dist.pipelines import tracking
from sdoml_dist.pipelines.emergence import EmergenceWorker
from sdoml_dist.pipelines.tracking import TrackedBlock, Tracker
from sdoml_dist.solar.helioseismology import BANDS_MILLIHERTZ, band_bins
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.tracking import Patch, View, tracked
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.sources.hmi_simulator import HmiSimulatorSource
from sdoml_dist.store.emergence import EmergenceStore
from sdoml_dist.store.emergence_reader import Emergence
from sdoml_dist.store.emergence_template import GROUP, KEYWORDS
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.receipt import count_outcomes
from sdoml_dist.store.repository import read_root
from tests.test_build import same
from tests.test_crash import end_leftovers, finish

START = np.datetime64("2011-02-14T23:59:26", "ns")
"""Midnight of TAI: the number of this frame is a multiple of every block."""
FIRST = frame_number(START)
WINDOW, HOP, PIXELS = 48, 16, 64
SIMULATION = SimulationConfig(pixels=PIXELS)
SIMULATOR = HmiSimulatorSource(SIMULATION, PRODUCTS["hmi_45s"])


def at(offset: int) -> np.datetime64:
    """Return the time of a frame counted from the first."""
    return frame_times(FIRST + offset, 1)[0]


def region(number: int, first: int, stop: int, latitude: float = 0.0, longitude: float = 30.0) -> dict[str, Any]:
    start, end = (str(at(offset).astype("datetime64[s]")) for offset in (first, stop))
    return {"number": number, "latitude_deg": latitude, "longitude_deg": longitude, "reference": start, "start": start,
            "end": end}  # fmt: skip


# Frames 0 to 63 and 32 to 95: two windows of 48 frames each, every 16 frames.
REGIONS = [region(1, 0, 64), region(2, 32, 96, latitude=-10.0, longitude=15.0)]
# The middle of the disc is at a latitude of -7 and a longitude of 23 degrees: one region beyond the limb, one across it.
BEHIND, AT_THE_LIMB = region(3, 0, 64, longitude=206.0), region(4, 0, 64, longitude=92.0)


def tiny(store: Path, **changes: Any) -> EmergenceRecipe:
    """Return a recipe that takes seconds in one process."""
    data = {
        "product": "emergence", "name": "tiny", "regions": REGIONS,
        "source": {"kind": "simulator", "simulation": {"pixels": PIXELS}},
        "tracking": {"pixels": 16, "scale_deg": 1.0}, "power": {"window": WINDOW, "step": "12min"},
        "layout": {"block_frames": 16, "block_windows": 4, "tile_pixels": 8, "segment_windows": 1},
        "store": {"url": str(store)},
    } | changes  # fmt: skip
    return EmergenceRecipe.model_validate(data)


def drive(recipe: EmergenceRecipe, source: Source | None = None, retry: Sequence[str] = ()) -> dict[str, int]:
    """Build as the engine does, unit after unit in this process, and return the number of units of every stage."""
    plan = EmergencePlan(recipe)
    store = EmergenceStore(plan)
    first = store.pending("track", retry)
    if first and source is None:
        _announce(plan)
    units = {}
    for stage in STAGES:
        work = first if stage == "track" else store.pending(stage)
        units[stage] = len(work)
        worker = EmergenceWorker(plan, store.ledger.fork())
        if source is not None:
            worker._tracker = Tracker(plan, source)
        for low in range(0, len(work), 5):
            store.commit([worker.process(*task) for task in work[low : low + 5]], stage, {})
    return units


def contents(url: str | Path) -> dict[str, np.ndarray]:
    """Return every array of the dataset by its path."""
    root = read_root(EmergenceRecipe.model_validate(tiny(Path("x")).model_dump() | {"store": {"url": str(url)}}).store)
    group = root[GROUP]
    assert isinstance(group, zarr.Group)
    return {path: np.asarray(n[:]) for path, n in group.members(max_depth=None) if isinstance(n, zarr.Array)}


@cache
def rendered(locator: str, bundle: str, time: np.datetime64) -> bytes:
    """Return a simulated file; each is rendered once for all tests."""
    return SIMULATOR.fetch(FrameRecord(bundle, time, locator))


def rewritten(data: bytes, pixels: np.ndarray | None = None, **keywords: Any) -> bytes:
    """Return a file with other pixels or keywords (None removes one)."""
    image, header = read_fits(data)
    cards = fits.Header()
    structure = ("SIMPLE", "BITPIX", "EXTEND", "COMMENT", "HISTORY")
    for name, value in (header | keywords).items():
        if name not in structure and not name.startswith("NAXIS") and value is not None:
            cards[name] = value
    buffer = io.BytesIO()
    values = np.asarray(image if pixels is None else pixels, np.float32)
    fits.HDUList([fits.PrimaryHDU(values, cards)]).writeto(buffer, output_verify="silentfix")
    return buffer.getvalue()


Change = Callable[[bytes], bytes]


class Altered:
    """The simulator with faults put in: of files, of the listing, of the source itself; it lists in no order."""

    sees_changes = False

    def __init__(self) -> None:
        self.changes: dict[tuple[str, np.datetime64], Change] = {}
        self.listed: dict[tuple[str, np.datetime64], Callable[[FrameRecord], list[FrameRecord]]] = {}
        self.on_candidates: Callable[[str, np.datetime64, np.datetime64], None] = lambda *_: None
        self.on_stage: Callable[[Sequence[FrameRecord]], None] = lambda *_: None

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Nothing has to be prepared."""

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        self.on_candidates(bundle, start, end)
        found: list[FrameRecord] = []
        for record in SIMULATOR.candidates(bundle, start, end):
            found += self.listed.get((bundle, record.time), lambda one: [one])(record)
        random.Random(7).shuffle(found)
        return found

    def stage(self, records: Sequence[FrameRecord]) -> None:
        self.on_stage(records)

    def fetch(self, record: FrameRecord) -> bytes:
        place, _, version = record.locator.partition("#")
        data = rendered(place, record.channel, record.time)
        if version:
            # Frames that were processed again are brighter by 100 units per version.
            return rewritten(data, read_fits(data)[0] + 100.0 * int(version))
        return self.changes.get((record.channel, record.time), lambda same: same)(data)


def versions(record: FrameRecord) -> list[FrameRecord]:
    """Return a record as it was processed three times."""
    ((segment, file),) = record.segments
    return [
        dataclasses.replace(
            record, locator=f"{record.locator}#{number}", version=f"201{number}-01-01",
            segments=((segment, dataclasses.replace(file, locator=f"{file.locator}#{number}")),),
        )
        for number in (2, 3, 1)
    ]  # fmt: skip


def fails(error: Exception) -> Change:
    def change(_: bytes) -> bytes:
        raise error

    return change


def hole(data: bytes) -> bytes:
    """Take out the middle of the disc."""
    image = read_fits(data)[0].copy()
    image[28:36, 28:36] = np.nan
    return rewritten(data, image)


def tai(offset: int) -> str:
    return f"2011.02.15_{offset * 45 // 3600:02d}:{offset * 45 // 60 % 60:02d}:{offset * 45 % 60:02d}_TAI"


FAULTS: list[tuple[str, FrameStatus]] = [
    ("three versions", FrameStatus.OK),
    ("none", FrameStatus.MISSING_NO_FRAME),
    ("gone", FrameStatus.MISSING_AT_SOURCE),
    ("cut off", FrameStatus.FAILED_READ),
    ("no FITS", FrameStatus.FAILED_NOT_FITS),
    ("other channel", FrameStatus.REJECTED_CHANNEL),
    ("no CRPIX1", FrameStatus.FAILED_KEYWORD),
    ("no CRLN_OBS", FrameStatus.FAILED_KEYWORD),
    ("shape", FrameStatus.FAILED_SHAPE),
    ("quality", FrameStatus.REJECTED_QUALITY),
    ("known quality", FrameStatus.REJECTED_QUALITY),
    ("time of the next", FrameStatus.FAILED_TIME),
    ("no time", FrameStatus.FAILED_TIME),
    ("hole", FrameStatus.OK),
    ("empty", FrameStatus.FAILED_NO_DATA),
    ("unforeseen", FrameStatus.FAILED_UNEXPECTED),
]


def put_in(source: Altered, bundle: str, offset: int, fault: str) -> None:
    """Put one of the faults into a frame."""
    place = (bundle, at(offset))
    changes: dict[str, Change] = {
        "gone": fails(FrameError(FrameStatus.MISSING_AT_SOURCE, "404")),
        "cut off": lambda data: data[: len(data) // 2],
        "no FITS": lambda _: b"<html>503</html>",
        "other channel": lambda data: rewritten(data, WAVELNTH=171.0),
        "no CRPIX1": lambda data: rewritten(data, CRPIX1=None),
        "no CRLN_OBS": lambda data: rewritten(data, CRLN_OBS=None),
        "shape": lambda data: rewritten(data, np.ones((32, PIXELS))),
        "quality": lambda data: rewritten(data, QUALITY=4),
        "time of the next": lambda data: rewritten(data, T_OBS=tai(offset + 1)),
        "no time": lambda data: rewritten(data, T_OBS="MISSING"),
        "hole": hole,
        "empty": lambda data: rewritten(data, np.full((PIXELS, PIXELS), np.nan)),
        "unforeseen": fails(OSError("Stale file handle")),
    }
    if fault in changes:
        source.changes[place] = changes[fault]
    elif fault == "none":
        source.listed[place] = lambda _: []
    elif fault == "known quality":
        source.listed[place] = lambda record: [dataclasses.replace(record, quality=4)]
    else:
        source.listed[place] = versions


def block_of(quantity: Quantity, store: Path) -> tuple[EmergencePlan, TrackUnit, list[int]]:
    """Return a block of 16 frames that every region has, and the offsets of its frames."""
    layout = {"block_frames": 16, "block_windows": 16, "tile_pixels": 8}
    plan = EmergencePlan(tiny(store, regions=[*REGIONS, BEHIND, AT_THE_LIMB], layout=layout))
    unit = next(u for u in plan.track_units() if u.quantity == quantity and len(u.regions) == 4)
    return plan, unit, [frame_number(time) - FIRST for time in plan.block_times(quantity, unit.block)]


def made(block: TrackedBlock, number: int, row: int) -> list[np.ndarray]:
    return [values[number][row] for values in (block.maps, block.keywords, block.tiles)]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_the_fault_matrix(quantity: Quantity, tmp_path: Path) -> None:
    plan, unit, offsets = block_of(quantity, tmp_path)
    whole = Tracker(plan, Altered()).process(unit)
    assert Counter(whole.status) == {int(FrameStatus.OK): 16}
    source = Altered()
    for offset, (fault, _) in zip(offsets, FAULTS, strict=True):
        put_in(source, f"{quantity}_45s", offset, fault)
    block = Tracker(plan, source).process(unit)
    assert [FrameStatus(code).label for code in block.status] == [status.label for _, status in FAULTS]
    assert count_outcomes(block.status) == {"ok": 2, "missing": 2, "rejected": 3, "failed": 9}
    valid = KEYWORDS.index("VALID")
    for row, (fault, status) in enumerate(FAULTS):
        record = json.loads(block.records[row])
        assert (record["source"] is None) == (fault == "none")
        # What is wrong is told, except for frames of which nothing is known.
        assert ("detail" in record) == (status.outcome != "ok" and fault != "none")
        for number in unit.regions:
            found, expected = made(block, number, row), made(whole, number, row)
            if status.outcome != "ok":
                # Nothing of a frame that cannot be used is left, and nothing stands in for it.
                assert all(np.isnan(values).all() for values in found), fault
            elif fault == "three versions":
                np.testing.assert_allclose(found[0], expected[0] + 300.0, rtol=1e-5, atol=1e-2)
                assert record["source"].endswith("#3")
            elif fault == "hole":
                left = np.isfinite(found[0])
                assert found[1][valid] == pytest.approx(left.mean())
                np.testing.assert_array_equal(found[0][left], expected[0][left])
    # The hole is in the middle of the disc, where both regions are; one beyond the limb has nothing to lose.
    row = [fault for fault, _ in FAULTS].index("hole")
    shares = {number: (whole.keywords[number][row, valid], block.keywords[number][row, valid]) for number in (1, 2, 3)}
    assert all(0.0 < shares[number][1] < shares[number][0] == 1.0 for number in (1, 2))
    assert shares[3] == (0.0, 0.0)
    assert np.isnan(whole.maps[3]).all()
    assert np.isnan(whole.tiles[3]).all()
    # Across the limb some pixels are there, and VALID says how many.
    assert ((whole.keywords[4][:, valid] > 0.1) & (whole.keywords[4][:, valid] < 0.9)).all()
    np.testing.assert_allclose(whole.keywords[4][:, valid], np.isfinite(whole.maps[4]).mean(axis=(1, 2)))
    # Each frame alone among whole ones: no other frame is disturbed.
    single = Altered()
    put_in(single, f"{quantity}_45s", offsets[11], "time of the next")
    alone = Tracker(plan, single).process(unit)
    others = np.arange(16) != 11
    for number in unit.regions:
        for name in ("maps", "keywords", "tiles"):
            one, other = getattr(alone, name)[number][others], getattr(whole, name)[number][others]
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_nothing_is_left_of_a_frame_that_fails_after_it_was_cut_for_some_regions(
    quantity: Quantity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, unit, _ = block_of(quantity, tmp_path)

    def cut(image: np.ndarray, view: View, patch: Patch, *rest: Any) -> np.ndarray:
        if patch.latitude_deg == -10.0:
            raise ValueError("no such place")
        return tracked(image, view, patch, *rest)

    monkeypatch.setattr(tracking, "tracked", cut)
    block = Tracker(plan, Altered()).process(unit)
    assert Counter(block.status) == {int(FrameStatus.FAILED_UNEXPECTED): 16}
    for number in unit.regions:
        assert all(np.isnan(values).all() for row in range(16) for values in made(block, number, row))


def test_a_source_that_fails_as_a_whole(tmp_path: Path) -> None:
    plan, unit, offsets = block_of("V", tmp_path)

    def refuse(*_: Any) -> None:
        raise FrameError(FrameStatus.FAILED_DOWNLOAD, "JSOC did not answer")

    source = Altered()
    source.on_candidates = refuse
    block = Tracker(plan, source).process(unit)
    assert Counter(block.status) == {int(FrameStatus.FAILED_DOWNLOAD): 16}
    assert json.loads(block.records[3]) == {"source": None, "detail": "JSOC did not answer"}
    # An export that does not come fails the frames that were asked for, and them only.
    source = Altered()
    source.on_stage = refuse
    put_in(source, "V_45s", offsets[2], "none")
    put_in(source, "V_45s", offsets[5], "known quality")
    block = Tracker(plan, source).process(unit)
    expected = [FrameStatus.FAILED_DOWNLOAD] * 16
    expected[2], expected[5] = FrameStatus.MISSING_NO_FRAME, FrameStatus.REJECTED_QUALITY
    assert block.status.tolist() == [int(status) for status in expected]
    assert all(np.isnan(maps).all() for maps in block.maps.values())


def test_a_source_that_breaks_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """What is no fault of a frame is no outcome of one: nothing is written down, the same command does it."""
    drive(tiny(tmp_path / "whole"), Altered())
    recipe, source = tiny(tmp_path / "d"), Altered()

    def break_down(bundle: str, start: np.datetime64, _: np.datetime64) -> None:
        if bundle == "V_45s" and start > at(72):
            raise EnvironmentFault("The index has gone.")

    source.on_candidates = break_down
    with pytest.raises(EnvironmentFault, match="The index has gone"):
        drive(recipe, source)
    # Five of the six blocks of V were committed at once; the sixth begins at frame 80.
    store = EmergenceStore(EmergencePlan(recipe))
    assert store.failed() == 0
    assert [task[0].unit_id for task in store.pending("track")] == [
        f"track/V/{FIRST // 16 + 5}", f"track/M/{FIRST // 64}", f"track/Ic/{FIRST // 64}"
    ]  # fmt: skip
    assert drive(recipe, Altered()) == {"track": 3, "power": 16, "timelines": 2}
    same(contents(tmp_path / "whole"), contents(tmp_path / "d"))


def power_by_hand(velocity: np.ndarray, gaps: str, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return power, shape (band, y, x), and duty cycle of one window by a Fourier transform."""
    differences = np.diff(velocity.astype(np.float64), axis=0)
    there = np.isfinite(differences)
    duty = there.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(np.where(there, differences, 0.0), axis=0)) ** 2
    bins, weights = band_bins(WINDOW, 45, BANDS_MILLIHERTZ, "solared")
    power = np.array([np.tensordot(weight, spectrum[chosen], 1) for chosen, weight in zip(bins, weights, strict=True)])
    if gaps == "mask":
        with np.errstate(invalid="ignore", divide="ignore"):
            power /= duty
    return np.where(duty < {"mask": least, "zero": 0.0, "strict": 1.0}[gaps], np.nan, power), duty


@pytest.mark.parametrize("gaps", ["mask", "zero", "strict"])
def test_gaps_reach_power_and_timelines_as_the_policy_says(gaps: str, tmp_path: Path) -> None:
    source, least = Altered(), 0.86
    put_in(source, "V_45s", 20, "none")
    put_in(source, "V_45s", 40, "cut off")
    put_in(source, "V_45s", 41, "time of the next")
    put_in(source, "V_45s", 50, "hole")
    # The snapshots of the first region's windows are frames 24 and 40.
    put_in(source, "M_45s", 24, "time of the next")
    put_in(source, "Ic_45s", 40, "no FITS")
    power = {"window": WINDOW, "step": "12min", "gaps": gaps, "minimum_duty_cycle": least}
    drive(tiny(tmp_path / "d", power=power, regions=[*REGIONS, BEHIND]), source)
    dataset = Emergence(str(tmp_path / "d"))
    assert dataset.accounting(1)["V"] == {"ok": 61, "missing": 1, "failed": 2}
    assert dataset.accounting(2)["V"] == {"ok": 62, "failed": 2}
    for number in (1, 2):
        velocity, maps = dataset.tracked(number)["V"].values, dataset.maps(number)
        for window in range(2):
            expected, duty = power_by_hand(velocity[window * HOP : window * HOP + WINDOW], gaps, least)
            np.testing.assert_allclose(maps["duty_cycle"].values[window], duty, rtol=1e-6)
            np.testing.assert_allclose(maps["power"].values[window], expected, rtol=2e-4)
        # Frame 20 takes two differences of 47, frames 40 and 41 three, the hole two more of its pixels.
        lost = {1: ({5}, {5, 7}), 2: ({3, 5}, {0, 2})}[number]
        for window in range(2):
            found = set(np.rint((1 - maps["duty_cycle"].values[window]) * 47).astype(int).ravel().tolist())
            assert found == lost[window]
    maps = dataset.maps(1)
    share = np.isfinite(maps["power"].values).mean(axis=(1, 2, 3))
    pixels = np.isclose(maps["duty_cycle"].values[1], 1 - 5 / 47).mean()
    assert share.tolist() == {"mask": [1.0, pixels], "zero": [1.0, 1.0], "strict": [0.0, 0.0]}[gaps]
    timeline = dataset.timeline(1)
    assert np.isnan(timeline.flux).all(axis=0).tolist() == [True, False]
    assert np.isnan(timeline.intensity).all(axis=0).tolist() == [False, True]
    assert np.isfinite(timeline.flux[:, 1]).all()
    # Beyond the limb every frame is there and shows nothing.
    assert dataset.accounting(3)["V"] == dataset.accounting(1)["V"]
    assert dataset.done(3) == 1.0
    behind = dataset.maps(3)
    assert (behind["duty_cycle"].values == 0.0).all()
    assert np.isnan(dataset.timeline(3).flux).all()
    if gaps != "zero":
        assert np.isnan(behind["power"].values).all()
        assert np.isnan(dataset.timeline(3).power).all()


def write_files(folder: Path) -> dict[tuple[str, int], Path]:
    """Write the frames of both regions as JSOC's exports, and return their paths by bundle and offset."""
    paths = {}
    for bundle in ("V_45s", "M_45s", "Ic_45s"):
        for path, file in SIMULATOR.files(bundle, at(0), at(96)):
            offset = frame_number(file.time) - FIRST
            if bundle == "V_45s" or offset % HOP == WINDOW // 2 % HOP:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(rendered(file.locator, bundle, file.time))
                paths[bundle, offset] = target
    return paths


def files_recipe(tmp_path: Path, name: str, **changes: Any) -> EmergenceRecipe:
    source = {"kind": "files", "url": str(tmp_path / "files"), "pixels": PIXELS,
              "index_cache": str(tmp_path / f"index-{name}")}  # fmt: skip
    return tiny(tmp_path / name, source=source, **changes)


def test_retry_makes_again_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "files")
    drive(files_recipe(tmp_path, "whole"))
    recipe = files_recipe(tmp_path, "d")
    good = {place: paths[place].read_bytes() for place in (("V_45s", 10), ("V_45s", 12), ("V_45s", 14), ("M_45s", 40))}
    for place in (("V_45s", 10), ("M_45s", 40)):
        paths[place].write_bytes(good[place][: len(good[place]) // 2])
    # Six blocks of V, one each of M and Ic; two regions with two segments of four tiles.
    assert drive(recipe) == {"track": 8, "power": 16, "timelines": 2}
    dataset = Emergence(recipe.store)
    assert dataset.accounting(1)["V"] == {"ok": 63, "failed": 1}
    assert [dataset.accounting(number)["M"]["failed"] for number in (1, 2)] == [1, 1]
    assert drive(recipe) == {"track": 0, "power": 0, "timelines": 0}
    before = contents(recipe.store.url)
    # Files that are as they were fail again, and nothing has changed.
    assert drive(recipe, retry=("failed",)) == {"track": 2, "power": 0, "timelines": 0}
    same(before, contents(recipe.store.url))
    # One is mended. Others of its block go bad, which is nothing to frames that are done.
    paths["V_45s", 10].write_bytes(good["V_45s", 10])
    paths["V_45s", 12].unlink()
    paths["V_45s", 14].write_bytes(b"<html>503</html>")
    # Frame 10 is in the first window of the first region only.
    assert drive(recipe, retry=("failed",)) == {"track": 2, "power": 4, "timelines": 1}
    after = contents(recipe.store.url)
    changed = {
        path for path, values in after.items() if not np.array_equal(values, before[path], values.dtype.kind == "f")
    }
    assert changed == {f"AR1/{path}" for path in ("V/V", "V/keywords", "V/record", "V/status", "power/power",
                                                   "power/duty_cycle", "timelines/power")}  # fmt: skip
    others = np.arange(64) != 10
    for name in ("V", "keywords", "status"):
        assert after[f"AR1/V/{name}"][others].tobytes() == before[f"AR1/V/{name}"][others].tobytes()
    assert (after["AR1/V/record"] != before["AR1/V/record"]).nonzero()[0].tolist() == [10]
    assert after["AR1/power/power"][1].tobytes() == before["AR1/power/power"][1].tobytes()
    # Flux of frame 40 belongs to the second window of the first region; the other region has it outside its windows.
    for place, data in good.items():
        paths[place].write_bytes(data)
    assert drive(recipe, retry=("failed",)) == {"track": 1, "power": 0, "timelines": 1}
    same(contents(tmp_path / "whole"), contents(recipe.store.url))


def test_retry_together_with_a_new_region_leaves_finished_frames_alone(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "files")
    broken = paths["V_45s", 40].read_bytes()
    paths["V_45s", 40].write_bytes(broken[:3000])
    drive(files_recipe(tmp_path, "d", regions=REGIONS[:1]))
    before = contents(tmp_path / "d")
    paths["V_45s", 40].write_bytes(broken)
    paths["V_45s", 44].unlink()
    # The block with frame 40 is two units: one frame for the region that is there, all for the new one.
    assert drive(files_recipe(tmp_path, "d"), retry=("failed",))["track"] == 1 + 4 + 2
    dataset, after = Emergence(str(tmp_path / "d")), contents(tmp_path / "d")
    assert dataset.accounting(1)["V"] == {"ok": 64}
    assert dataset.accounting(2)["V"] == {"ok": 63, "missing": 1}
    others = np.arange(64) != 40
    assert after["AR1/V/V"][others].tobytes() == before["AR1/V/V"][others].tobytes()
    # Two regions see the same frame 40.
    assert np.isfinite(dataset.tracked(1)["V"].values[40]).all()
    assert np.isfinite(dataset.tracked(2)["V"].values[8]).all()


def test_a_second_driver_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny(tmp_path / "d")
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    with Lease(recipe.store, "sdoml emergence build"):
        assert main(["emergence", "build", str(path)]) == ExitCode.ENVIRONMENT
    assert "is in use: sdoml emergence build" in capsys.readouterr().err
    # Nothing was made.
    assert not (tmp_path / "d" / "icechunk").exists()


_MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from sdoml_dist.emergence_plan import EmergencePlan, PowerUnit, _WORKER_BASE_BYTES
from sdoml_dist.emergence_recipe import EmergenceRecipe
from sdoml_dist.pipelines.emergence import EmergenceWorker
from sdoml_dist.store.emergence import EmergenceStore, RegionWriter

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

plan = EmergencePlan(EmergenceRecipe.model_validate(json.loads(sys.argv[1])))
((number, axes),) = plan.axes.items()
store = EmergenceStore(plan)
velocity = store.ledger.group(f"emergence/AR{number}/V", "r+")["V"]
size, pixels = velocity.shards[0], velocity.shape[1]
block = np.zeros((size, pixels, pixels), np.float32)
block[:] = np.sin(np.arange(size, dtype=np.float32))[:, None, None]
for low in range(0, velocity.shape[0], size):
    velocity[low : low + size] = block
store.ledger.commit("velocity")
worker = EmergenceWorker(plan, store.ledger.fork())
# Kernels are compiled, and libraries are as they are in a worker that has done a unit of some frames.
from sdoml_dist.solar.helioseismology import band_power
band_power(block[:200, :8, :8], 45, 64, 16)
np.asarray(velocity[:size, :8, :8])
del block
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
taken = []
for segment in (0, plan.segments(axes) // 2, plan.segments(axes) - 1):
    receipt = worker.process(PowerUnit(number, segment, 0, 0))
    assert (receipt.status == 1).all()
    taken.append(memory("VmHWM") - before)
print(json.dumps({
    "taken": taken, "estimate": plan.memory_per_actor_bytes - _WORKER_BASE_BYTES,
    "series": 4 * pixels**2 * axes.frames.count, "segments": plan.segments(axes),
}))
"""


def test_a_segment_of_a_long_series_takes_the_memory_of_a_segment(tmp_path: Path) -> None:
    # A segment needs 320 hops of 16 frames, 21 MB of 32 x 32 pixels; the region has ten of them.
    data = tiny(
        tmp_path / "d", regions=[region(1, 0, 64) | {"end": "2011-03-13T12:00"}],
        tracking={"pixels": 32, "scale_deg": 1.0}, power={"window": 64, "step": "12min"},
        layout={"block_frames": 160, "block_windows": 4, "tile_pixels": 32, "segment_windows": 320},
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, data.model_dump_json()],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["segments"] == 10
    # What libraries keep for themselves once they have been used is part of the base of a worker.
    most = found["estimate"] + 24 * 2**20
    assert found["series"] > 2.5 * most
    assert 0 < found["taken"][0] <= found["taken"][-1] < most, found


def crash_recipe(folder: Path, name: str) -> Path:
    """Write a recipe with many small units, each committed alone, and some bad frames."""
    simulation = {"pixels": PIXELS, "missing_rate": 0.05, "flagged_rate": 0.05, "corrupt_rate": 0.05}
    layout = {"block_frames": 8, "block_windows": 4, "tile_pixels": 8, "segment_windows": 1}
    source, resources = {"kind": "simulator", "simulation": simulation}, {"commit_every_units": 1}
    recipe = tiny(folder / name, name="crash", source=source, layout=layout, resources=resources)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def start(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sdoml_dist", "emergence", "build", str(recipe), "--cpus", "2", "--wait", "60"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def history(store: Path, stage: str = "") -> list[str]:
    """Return the units that all runs have committed and written down."""
    parts = sorted(store.glob("sdoml/runs/*/history-*.jsonl"))
    units = [json.loads(line)["unit"] for part in parts for line in part.read_text().splitlines()]
    return [unit for unit in units if unit.startswith(stage)]


def wait_for_units(run: subprocess.Popen[str], store: Path, stage: str, number: int) -> list[psutil.Process]:
    """Wait until so many units of a stage are committed and return the driver's descendants."""
    deadline = time.monotonic() + 240
    while len(history(store, stage)) < number:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(run.pid).children(recursive=True)


def kill(run: subprocess.Popen[str], children: list[psutil.Process]) -> None:
    run.send_signal(signal.SIGKILL)
    run.communicate()
    end_leftovers(children)


def committed(store: Path) -> int:
    """Check that readers see whole units only, and return how many units of tracking and power are there."""
    arrays, number = contents(store), 0
    for name in ("AR1", "AR2"):
        for quantity, size in (("V", 8), ("M", 4), ("Ic", 4)):
            status = arrays[f"{name}/{quantity}/status"]
            blocks = (status != 0).reshape(-1, size)
            assert (blocks.all(axis=1) == blocks.any(axis=1)).all()
            number += int(blocks.all(axis=1).sum())
            # A frame is there with everything, or not at all.
            assert (np.isfinite(arrays[f"{name}/{quantity}/{quantity}"]).any(axis=(1, 2)) == (status == 1)).all()
            assert (np.isfinite(arrays[f"{name}/{quantity}/keywords"][:, 0]) == (status == 1)).all()
            assert ((arrays[f"{name}/{quantity}/record"] != "") == (status != 0)).all()
        done = arrays[f"{name}/power/status"] == 1
        made = np.isfinite(arrays[f"{name}/power/power"]).reshape(-1, 4, 2, 8, 2, 8).any(axis=(1, 3, 5))
        assert (made == done).all()
        number += int(done.sum())
    return number


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the dataset as it is made unit after unit, without Ray."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = EmergenceRecipe.model_validate(yaml.safe_load(crash_recipe(folder, "whole").read_text()))
    drive(recipe)
    outcomes = Emergence(recipe.store).accounting(1)["V"]
    assert set(outcomes) == {"ok", "missing", "rejected", "failed"}
    return contents(recipe.store.url)


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_build_that_is_killed_and_then_stopped_goes_on(
    tmp_path: Path, undisturbed: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, store = crash_recipe(tmp_path, "d"), tmp_path / "d"
    generator = random.Random(3)
    run = start(recipe)
    children = wait_for_units(run, store, "track", generator.randint(1, 5))
    # A second driver of the same dataset is refused while this one lives.
    assert main(["emergence", "build", str(recipe)]) == ExitCode.ENVIRONMENT
    assert f"process {run.pid}" in capsys.readouterr().err
    workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
    assert workers
    workers[0].kill()
    time.sleep(generator.uniform(0, 0.5))
    kill(run, children)
    before = committed(store)
    assert before >= len(history(store)) > 0
    known = len(history(store))
    run = start(recipe)
    wait_for_units(run, store, "", known + 2)
    run.send_signal(signal.SIGTERM)
    code, _, err = finish(run, 240)
    assert code == ExitCode.STOPPED, err
    assert "Stopped by SIGTERM" in err
    record = json.loads(max(store.glob("sdoml/runs/*/run.json")).read_text())
    assert (record["state"], record["exit_code"]) == ("ended", int(ExitCode.STOPPED))
    # Nothing under way was lost: what the run wrote down is there.
    assert committed(store) >= before + len(history(store)) - known
    code, out, err = finish(start(recipe), 240)
    assert code == ExitCode.FRAMES_FAILED, err
    assert "--retry failed" in out
    same(undisturbed, contents(store))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments(tmp_path: Path, undisturbed: dict[str, np.ndarray], seed: int) -> None:
    recipe, store = crash_recipe(tmp_path, "d"), tmp_path / "d"
    generator = random.Random(seed)
    for attempt in range(3):
        run = start(recipe)
        children = wait_for_units(run, store, "", len(history(store)) + generator.randint(1, 12))
        if attempt != 1:
            workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
            for worker in workers[:1]:
                worker.kill()
            time.sleep(generator.uniform(0, 2))
        kill(run, children)
        assert committed(store) >= len(set(history(store))) > 0
    code, _, err = finish(start(recipe), 300)
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(store))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_during_the_stage_of_power(
    tmp_path: Path, undisturbed: dict[str, np.ndarray], number: signal.Signals
) -> None:
    recipe, store = crash_recipe(tmp_path, "d"), tmp_path / "d"
    run = start(recipe)
    children = wait_for_units(run, store, "power", 3)
    if number == signal.SIGKILL:
        kill(run, children)
    else:
        run.send_signal(signal.SIGTERM)
        code, _, err = finish(run, 240)
        assert code == ExitCode.STOPPED, err
    committed(store)
    tracked = len(history(store, "track"))
    code, _, err = finish(start(recipe), 300)
    assert code == ExitCode.FRAMES_FAILED, err
    # No frame was read a second time.
    assert len(history(store, "track")) == tracked
    same(undisturbed, contents(store))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_undisturbed_build_over_ray_is_what_one_process_makes(
    tmp_path: Path, undisturbed: dict[str, np.ndarray]
) -> None:
    code, _, err = finish(start(crash_recipe(tmp_path, "d")), 300)
    assert code == ExitCode.FRAMES_FAILED, err
    same(undisturbed, contents(tmp_path / "d"))
