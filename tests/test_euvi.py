"""Frames of STEREO's EUVI: read, registered and brought to AIA's intensities, against the simulated Sun's truth."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from astropy.io import fits

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.euvi import IntensityMatch, euvi_pointing
from sdoml_dist.solar.scene import SunModel
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.translation import correlation, disc_mask, to_disc_median
from sdoml_dist.sources.euvi import channel_sets, form_sets, read_euvi
from sdoml_dist.sources.euvi_files import DUPLICATE, look_into_folder
from sdoml_dist.sources.euvi_simulator import euvi_fits, stereo

TIME = np.datetime64("2011-03-05T00:10:00", "ns")
SETTINGS = CalibrationSettings(pixels=128)


def changed(data: bytes, **keywords: object) -> bytes:
    with fits.open(io.BytesIO(data)) as file:
        file[0].header.update(keywords)
        buffer = io.BytesIO()
        file.writeto(buffer)
    return buffer.getvalue()


def test_a_frame_lands_on_the_grid_as_the_spacecraft_sees_the_sun() -> None:
    data = euvi_fits(SimulationConfig(seed=3, noise=False), "STEREO_B", 304, TIME, pixels=512)
    got = read_euvi(data, SETTINGS)
    assert (got.spacecraft, got.wavelength, got.channel) == ("STEREO_B", 304, "304A")
    assert got.separation_deg == pytest.approx(-94.78, abs=0.01)
    assert abs((got.frame.time - TIME) / np.timedelta64(1, "ms")) < 2
    observer, _ = stereo("STEREO_B", TIME)
    truth = SunModel(3).truth("304A", TIME, 128, samples=4, seen_from=observer)
    mask = disc_mask(128, 0.95)
    # The simulated instrument has 1.3 counts for each of AIA; half-pixel errors of the geometry would show at once.
    ratio = got.frame.image[mask] / truth[mask]
    assert np.median(ratio) == pytest.approx(1.3, rel=0.01)
    assert correlation(got.frame.image[mask], truth[mask]) > 0.995
    shifted = np.roll(truth, 1, axis=1)
    assert correlation(got.frame.image[mask], shifted[mask]) < 0.95
    # From Earth another side is seen.
    assert correlation(truth[mask], SunModel(3).truth("304A", TIME, 128, samples=2)[mask]) < 0.5
    # Without the PC matrix, CROTA says the same; a frame whose bias is off already is not brought below it.
    header = fits.getheader(io.BytesIO(data))
    without = {key: value for key, value in header.items() if not key.startswith("PC")}
    assert euvi_pointing(without).crota2 == pytest.approx(euvi_pointing(dict(header)).crota2, abs=1e-9)
    corrected = read_euvi(changed(data, OFFSETCR=724.5), SETTINGS)
    assert np.nanmin(corrected.frame.image - got.frame.image) == pytest.approx(724.5 / 16, rel=1e-3)


@pytest.mark.parametrize(
    ("keywords", "status"),
    [
        ({"DETECTOR": "COR1"}, FrameStatus.REJECTED_CHANNEL),
        ({"WAVELNTH": 175}, FrameStatus.REJECTED_CHANNEL),
        ({"LEDCOLOR": "RED"}, FrameStatus.REJECTED_NOT_LIGHT),
        ({"EXPTIME": 0.0}, FrameStatus.REJECTED_EXPOSURE),
        ({"DATE-OBS": "yesterday"}, FrameStatus.FAILED_TIME),
        ({"CDELT1": "wide"}, FrameStatus.FAILED_KEYWORD),
        ({"OBSRVTRY": "SOHO"}, FrameStatus.FAILED_KEYWORD),
    ],
)
def test_frames_that_cannot_be_used_say_why(keywords: dict[str, object], status: FrameStatus) -> None:
    data = changed(euvi_fits(SimulationConfig(seed=3), "STEREO_A", 171, TIME, pixels=64), **keywords)
    with pytest.raises(FrameError) as caught:
        read_euvi(data, SETTINGS)
    assert caught.value.status is status


def test_folders_and_sets_of_channels(tmp_path: Path) -> None:
    config = SimulationConfig(seed=3)
    for minutes, wavelength in ((0, 304), (4, 195), (9, 171), (600, 304), (605, 195), (900, 171), (902, 195)):
        time = TIME + np.timedelta64(minutes * 60, "s")
        (tmp_path / f"{minutes}_{wavelength}.fts").write_bytes(euvi_fits(config, "STEREO_A", wavelength, time, 64))
    again = tmp_path / "other" / "again.fts"
    again.parent.mkdir()
    again.write_bytes((tmp_path / "0_304.fts").read_bytes())
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE")
    settings = CalibrationSettings(pixels=32)
    files = look_into_folder(str(tmp_path), settings)
    # Every file is there, with what it is or why it is nothing.
    told = {Path(one.path).name: (one.status, one.detail) for one in files}
    assert told.pop("broken.fits") == ("failed_read", "the header does not end")
    assert told.pop("again.fts") == (DUPLICATE, f"the same frame as {tmp_path / '0_304.fts'}")
    assert set(told.values()) == {("ok", "")}
    frames = [one for one in files if one.status == "ok"]
    first = next(one for one in frames if one.path.endswith("/0_304.fts"))
    read = first.read(settings)
    assert (read.spacecraft, read.channel, read.time, read.separation_deg) == (
        first.spacecraft, first.channel, first.time, first.separation_deg,
    )  # fmt: skip

    channels = ("304A", "193A", "171A")
    sets = form_sets(frames, channels, 900)
    assert [([one.wavelength for one in some.frames], some.missing) for some in sets] == [
        ([304, 195, 171], ()), ([304, 195], ("171A",)), ([195, 171], ("304A",)),
    ]  # fmt: skip
    (found,) = channel_sets(frames, channels, 900)
    assert [one.wavelength for one in found] == [304, 195, 171]
    assert len(channel_sets(frames, ("304A", "193A"), 900)) == 2
    # Alone, each frame is a set that lacks the others.
    assert len(form_sets(frames, channels, 60)) == len(frames)
    with pytest.raises(FrameError, match="no set within 60 s"):
        channel_sets(frames, channels, 60)
    with pytest.raises(UsageError, match="There is no file"):
        look_into_folder(str(tmp_path / "empty"), SETTINGS)

    # What is known is not read again, unless the file has changed.
    (tmp_path / "0_304.fts").write_bytes((tmp_path / "600_304.fts").read_bytes()[:-2880])
    known = {(one.path, one.state): replace(one, detail="known") for one in frames}
    second = {Path(one.path).name: one for one in look_into_folder(str(tmp_path), settings, known)}
    assert second["4_195.fts"].detail == "known"
    assert second["again.fts"].status == "ok"
    assert second["0_304.fts"].time == second["600_304.fts"].time
    with pytest.raises(FrameError) as caught:
        second["0_304.fts"].read(settings)
    assert caught.value.status is FrameStatus.FAILED_READ


def test_headers_at_other_addresses_and_of_any_length() -> None:
    """Headers that are longer than what is read at first, and files that are not on a disk."""
    place = fsspec.filesystem("memory")
    data = euvi_fits(SimulationConfig(seed=3), "STEREO_B", 195, TIME, pixels=64)
    with fits.open(io.BytesIO(data)) as file:
        for number in range(800):
            file[0].header[f"K{number}"] = number
        buffer = io.BytesIO()
        file.writeto(buffer)
    place.pipe({"/euvi/2011/a.fts": data, "/euvi/2012/b.fts": buffer.getvalue(), "/euvi/note.txt": b"no frame"})
    try:
        first, second = look_into_folder("memory://euvi", SETTINGS)
        assert first.path == "memory:///euvi/2011/a.fts"
        assert (first.status, first.size, first.channel, first.spacecraft) == ("ok", len(data), "193A", "STEREO_B")
        assert second.status == DUPLICATE
        np.testing.assert_array_equal(first.read(SETTINGS).frame.image, second.read(SETTINGS).frame.image)
    finally:
        place.rm("/euvi", recursive=True)


def test_195_gets_the_distribution_of_193() -> None:
    mask = disc_mask(64)
    times = TIME + np.arange(0, 60, 15) * np.timedelta64(86400, "s")
    settings, config = CalibrationSettings(pixels=64), SimulationConfig(seed=3)
    sun, observers = SunModel(3), [stereo("STEREO_A", time)[0] for time in times]
    raw = np.stack([read_euvi(euvi_fits(config, "STEREO_A", 195, time, 256), settings).frame.image for time in times])
    seen = to_disc_median(raw, mask)
    same = np.stack(
        [sun.truth("193A", time, 64, samples=2, seen_from=who) for time, who in zip(times, observers, strict=True)]
    )
    earth = to_disc_median(np.stack([sun.truth("193A", time, 64, samples=2) for time in times]), mask)
    true = to_disc_median(same, mask)
    match = IntensityMatch.from_dict(IntensityMatch.fit(seen, earth, mask).to_dict())

    def error(images: np.ndarray) -> float:
        return float(np.abs(np.log(images[..., mask]) - np.log(true[..., mask])).mean())

    # The curve is learned from the other side of the Sun, with other regions, yet takes nearly half of the difference away.
    assert error(match.apply(seen)) < 0.6 * error(seen)
    assert (np.diff(match.target) >= 0).all()
    assert np.isnan(match.apply(np.array([np.nan], np.float32))).all()
    for wrong in ({}, {"source": [1, 2], "target": [2, 1]}, {"source": [1], "target": [1]}):
        with pytest.raises(UsageError, match="not a curve"):
            IntensityMatch.from_dict(wrong)
    with pytest.raises(UsageError, match="too few"):
        IntensityMatch.fit(seen[:1], np.full((1, 64, 64), np.nan), mask)
