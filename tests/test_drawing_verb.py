"""Pictures of drawings to FITS files: times before 1678, the Earth as observer, and pictures that cannot be used."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sunpy.map
import torch
from astropy.io import fits
from erfa import ErfaWarning
from PIL import Image
from safetensors.torch import save_file

from sdoml_dist.cli import main
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.galileo import Galileo
from sdoml_dist.experiments.galileo_drawings import Sheet, drawing_time, earth_keywords, sheets, to_fits
from sdoml_dist.solar.drawing import draw
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.translation import disc_radius

SIZE = 64
PICTURE = 200


def saved(folder: Path, target: str = "M_720s", experiment: str = "galileo") -> Path:
    """Write a run with a checkpoint of a small network that has learned nothing."""
    config = {
        "experiment": "galileo", "data": {"store": {"url": "nowhere"}, "size": SIZE, "target": target},
        "network": {"narrowing": 16, "judged": 0},
    }  # fmt: skip
    prepared = {"snapshot": "none", "pixels": SIZE}
    torch.manual_seed(0)
    network = Galileo({"config": config, "prepared": prepared}).models()["generator"]
    place = folder / "checkpoint_00000007"
    place.mkdir(parents=True)
    save_file(network.state_dict(), place / "generator.safetensors")
    about = {"experiment": experiment, "step": 7, "config": config, "prepared": prepared, "metrics": {}}
    (place / "checkpoint.json").write_text(json.dumps(about))
    return folder


def drawn(seed: int = 1) -> bytes:
    """Return the picture of a drawing with two spots."""
    middle = (PICTURE - 1) / 2
    j, i = np.mgrid[:PICTURE, :PICTURE] - middle
    image = np.where(j**2 + i**2 < disc_radius(PICTURE) ** 2, 5e4, np.nan)
    for y, x in ((20, -30), (-25, 35)):
        image = np.where((j - y) ** 2 + (i - x) ** 2 < 49, image * 0.5, image)
    buffer = io.BytesIO()
    Image.fromarray((draw(image, seed)[::-1] * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def meeus(time: str) -> tuple[float, float, float]:
    """Return B0, L0 and the distance in au by Meeus, Astronomical Algorithms, chapters 25 and 29."""
    days = float((np.datetime64(time, "s") - np.datetime64("2000-01-01T12:00", "s")) / np.timedelta64(1, "D"))
    century = days / 36525
    anomaly = np.radians(357.52911 + 35999.05029 * century - 0.0001537 * century**2)
    eccentricity = 0.016708634 - 0.000042037 * century
    centre = (1.914602 - 0.004817 * century) * np.sin(anomaly) + (0.019993 - 0.000101 * century) * np.sin(2 * anomaly)
    longitude = 280.46646 + 36000.76983 * century + 0.0003032 * century**2 + centre + 0.000289 * np.sin(3 * anomaly)
    true_anomaly = anomaly + np.radians(centre)
    distance = 1.000001018 * (1 - eccentricity**2) / (1 + eccentricity * np.cos(true_anomaly))
    along = np.radians(longitude - 73.6667 - 1.3958333 * (days + 2451545 - 2396758) / 36525)
    tilt = np.radians(7.25)
    b0 = np.degrees(np.arcsin(np.sin(along) * np.sin(tilt)))
    eta = np.degrees(np.arctan2(-np.sin(along) * np.cos(tilt), -np.cos(along)))
    return float(b0), float((eta - (days + 2451545 - 2398220) * 360 / 25.38) % 360), float(distance)


@pytest.mark.parametrize("time", ["1612-06-02T15:00:00", "1612-07-08T12:00:00", "1825-03-01T12:00:00"])
def test_where_the_earth_was_by_another_theory(time: str) -> None:
    got = earth_keywords(np.datetime64(time, "ms"), SIZE)
    b0, l0, distance = meeus(time)
    assert got["HGLT_OBS"] == pytest.approx(b0, abs=0.06)
    # 0.4 degrees of it are the rate of rotation: 360 / 25.38 degrees a day is not 14.1844.
    assert got["CRLN_OBS"] == pytest.approx(l0, abs=0.5)
    assert float(got["DSUN_OBS"]) / 149_597_870_700 == pytest.approx(distance, rel=1e-4)
    assert got["DATE-OBS"] == f"{time}.000"
    assert float(got["R_SUN"]) == pytest.approx(disc_radius(SIZE))


def test_in_our_time_it_is_where_the_dataset_has_it() -> None:
    got, known = (
        earth_keywords(np.datetime64("2014-05-01T06:00", "ms"), SIZE),
        ephemeris(np.datetime64("2014-05-01T06:00", "ns")),
    )
    assert got["HGLT_OBS"] == pytest.approx(known.b0_deg, abs=0.02)
    assert got["CRLN_OBS"] == pytest.approx(known.l0_deg, abs=0.05)
    # SDO's orbit is 42 000 km from the Earth's centre.
    assert got["DSUN_OBS"] == pytest.approx(known.dsun_obs_m, abs=6e7)


def test_drawings_of_1612_become_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run")
    first, second = tmp_path / "2 giugno.png", tmp_path / "tavola_à.jpeg"
    first.write_bytes(drawn())
    second.write_bytes(drawn(2))
    (tmp_path / "broken.png").write_bytes(first.read_bytes()[:300])
    Image.new("L", (100, 100), 230).save(tmp_path / "blank.png")
    out = tmp_path / "made"
    files = [first, tmp_path / "broken.png", second, tmp_path / "blank.png", tmp_path / "none.png"]
    times = ["1612-06-02T15:00", "1612-06-03", "1612-07-08 12:00", "1612-07-09", "1612-07-10"]
    arguments = ["drawing", str(run), *map(str, files), "-o", str(out), "--north", "-14.8"]
    code = main([*arguments, *(part for time in times for part in ("--time", time))])
    told = capsys.readouterr().out
    assert code == 3
    assert "2 of 5 drawings made" in told
    assert f"{tmp_path / 'broken.png'}: not used: This is no picture" in told
    assert f"{tmp_path / 'blank.png'}: not used: No limb is found" in told
    assert "none.png: not used: [Errno 2]" in told
    assert sorted(path.name for path in out.iterdir()) == ["2 giugno_M_720s.fits", "tavola_à_M_720s.fits"]
    with fits.open(out / "2 giugno_M_720s.fits") as file:
        header, image = file[0].header, file[0].data
    history = str(header["HISTORY"])
    assert hashlib.sha256(first.read_bytes()).hexdigest()[:16] in history
    assert "north -14.8 degrees" in history
    assert "galileo at step 7" in history
    assert "tavola_\\xe0.jpeg" in str(fits.getheader(out / "tavola_à_M_720s.fits")["HISTORY"])
    assert np.isnan(image[0, 0])
    assert np.isfinite(image).sum() > 1800
    with warnings.catch_warnings():
        # Astropy's UTC before 1960, and ERFA's theory before 1900; see earth_keywords.
        warnings.simplefilter("ignore", ErfaWarning)
        seen = sunpy.map.Map(out / "2 giugno_M_720s.fits")
        assert seen.date.isot.startswith("1612-06-02T15:00:00")
        assert seen.unit.to_string() == "G"
        assert seen.observer_coordinate.lat.deg == pytest.approx(0.18, abs=0.06)
        assert seen.observer_coordinate.radius.to_value("AU") == pytest.approx(1.01535, abs=1e-4)
        assert seen.rsun_obs.to_value("arcsec") / seen.scale[0].value == pytest.approx(disc_radius(SIZE), rel=1e-6)
    # The same picture again is the same image, and turning the picture is turning the Sun.
    assert (
        main(["drawing", str(run), str(first), "-o", str(tmp_path / "again"), "--north", "-14.8", "--time", times[0]])
        == 0
    )
    assert np.array_equal(fits.getdata(tmp_path / "again/2 giugno_M_720s.fits"), image, equal_nan=True)
    assert (
        main(["drawing", str(run), str(first), "-o", str(tmp_path / "turned"), "--north", "90", "--time", times[0]])
        == 0
    )
    assert not np.allclose(np.nan_to_num(fits.getdata(tmp_path / "turned/2 giugno_M_720s.fits")), np.nan_to_num(image))


@pytest.mark.parametrize(("target", "unit"), [("Ic_720s", ""), ("304A", "DN / s"), ("Bz", "G")])
def test_every_target_has_its_unit(target: str, unit: str) -> None:
    made = to_fits(np.ones((SIZE, SIZE)), target, Sheet(Path("a"), np.datetime64("1979-03-01", "ms")), ["a\nb"])
    with fits.open(io.BytesIO(made)) as file:
        seen = sunpy.map.Map(file[0].data, file[0].header)
    assert seen.unit.to_string() == unit
    assert seen.meta.get("wavelnth") == (304 if target == "304A" else None)
    assert seen.observer_coordinate.lon.deg == 0


def test_what_is_asked_must_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("1612", "2 June 1612", "1612-06-31", "1612-06-02T25:00", "now"):
        with pytest.raises(UsageError, match="is not a time"):
            drawing_time(text)
    assert drawing_time("1612-06-02T15:00Z") == np.datetime64("1612-06-02T15:00", "ms")
    with pytest.raises(UsageError, match="--time is given 2 times for 3"):
        sheets(["a", "b", "c"], ["1612-06-02", "1612-06-03"])
    with pytest.raises(UsageError, match="named a"):
        sheets(["x/a.png", "y/a.jpg"], ["1612-06-02"])
    one, two = sheets(["a", "b"], ["1612-06-02"], [3.0, 4.0])
    assert (one.time, one.north_deg, two.time, two.north_deg) == (two.time, 3.0, one.time, 4.0)
    saved(tmp_path / "other", experiment="far-side")
    ask = ["-o", str(tmp_path / "out"), "--time", "1612-06-02", "--north", "0"]
    assert main(["drawing", str(tmp_path / "other"), "a.png", *ask]) == 2
    assert "not of galileo" in capsys.readouterr().err
    # A disc that is given is not searched for; one that is none is refused, with the reason.
    (tmp_path / "a.png").write_bytes(drawn())
    run = str(saved(tmp_path / "run", "Ic_720s"))
    middle = str((PICTURE - 1) / 2)
    assert (
        main(["drawing", run, str(tmp_path / "a.png"), *ask, "--disc", middle, middle, str(disc_radius(PICTURE))]) == 0
    )
    assert (tmp_path / "out/a_Ic_720s.fits").is_file()
    assert main(["drawing", run, str(tmp_path / "a.png"), *ask, "--disc", "5", "5", "0"]) == 3
    assert "is no limb" in capsys.readouterr().out
