"""Imports of published layouts: an ordinary build of images that are taken over as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.engine.export import export
from sdoml_dist.engine.importing import import_published
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.make import make_source
from sdoml_dist.sources.published_layout import frame_path, read_frame_path, read_npz
from tests.test_export import PIXELS, good, shared_dataset, shared_export

# What is about the source image and its way through the pipeline, and not published.
_NOT_PUBLISHED = {
    "CRPIX1_L1",
    "CRPIX2_L1",
    "CDELT1_L1",
    "CDELT2_L1",
    "CROTA2_L1",
    "POINTING",
    "SOURCE_ID",
    "CALIBRATION_ID",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, ray_cluster: Any) -> tuple[str, Path]:
    """Return the dataset, and a folder with its exports ``v1`` and ``v2``."""
    url, folder = shared_dataset(tmp_path_factory), tmp_path_factory.mktemp("import")
    shutil.copytree(shared_export(tmp_path_factory), folder / "v2")
    export(url, str(folder / "v1"), layout="sdoml-v1")
    return url, folder


def test_aia_comes_back_frame_by_frame(published: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = published
    place = str(tmp_path / "i")
    summary = import_published(str(folder / "v2"), place, layout="sdoml-v2", shard_slots=8)
    assert summary.exit_code is ExitCode.COMPLETE
    ours, theirs = (sdoml_dist.open_dataset(where, product="aia") for where in (url, place))
    recipe = parse_recipe(theirs.attrs["recipe"])
    assert (recipe.cadence, recipe.grid.pixels, recipe.grid.convention) == (360, PIXELS, "mean")
    ours = ours.sel(time=theirs.time)
    np.testing.assert_array_equal(ours.status == 1, theirs.status == 1)
    np.testing.assert_array_equal(theirs.status.values[ours.status.values != 1], 10)
    for channel in ("171A", "304A"):
        ok = theirs.status.sel(channel=channel).values == 1
        assert ok.sum() > 15
        np.testing.assert_array_equal(theirs[channel].values[ok], np.nan_to_num(ours[channel].values[ok]))
        assert np.isnan(theirs[channel].values[~ok]).all()
        for name in recipe.contents.keywords:
            if name in _NOT_PUBLISHED:
                continue
            np.testing.assert_allclose(
                theirs[name].sel(channel=channel).values[ok].astype(float),
                ours[name].sel(channel=channel).values[ok].astype(float), rtol=1e-12, err_msg=name,
            )  # fmt: skip
    record = sdoml_dist.header(place, "171A", theirs.time.values[ok][0])
    assert record["imported"]["layout"] == "sdoml-v2"
    assert record["imported"]["url"].endswith("v2/sdomlv2.zarr")
    assert record["imported"]["year"] == 2014
    assert set(record["imported"]["rows"]) == {"171A"}
    assert record["header"]["PIXLUNIT"] == "DN/s"
    assert len(record["header"]) > 150
    seen = sdoml_dist.to_map(theirs, "171A", theirs.time.values[ok][0])
    assert seen.rsun_obs.to_value("arcsec") / seen.scale[0].to_value("arcsec / pix") == pytest.approx(
        PIXELS * 976 / 2457.6
    )
    result = validate(place)
    assert result.valid, result.text()
    # Again: nothing to do.
    again = import_published(str(folder / "v2"), place, layout="sdoml-v2")
    assert again.outcomes.total() == 0
    # And out again: the same arrays.
    export(place, str(tmp_path / "out"), chunk_frames=10)
    for channel in ("171A", "304A"):
        chunk = f"sdomlv2.zarr/2014/{channel}/0.0.0"
        assert (tmp_path / "out" / chunk).read_bytes() == (folder / "v2" / chunk).read_bytes()


def test_hmi_and_eve_come_back(published: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = published
    place = str(tmp_path / "i")
    for product in ("hmi", "eve"):
        summary = import_published(str(folder / "v2"), place, layout="sdoml-v2", product=product)
        assert summary.exit_code is ExitCode.COMPLETE
    for channel in ("Bx", "By", "Bz"):
        (times, values), (theirs, found) = good(url, channel), good(place, channel)
        np.testing.assert_array_equal(times, theirs)
        np.testing.assert_array_equal(np.nan_to_num(values), found)
    for channel in ("Fe XX", "He II_2", "C III"):
        (times, values), (theirs, found) = good(url, channel), good(place, channel)
        np.testing.assert_array_equal(times, theirs)
        np.testing.assert_array_equal(values, found)
    result = validate(place)
    assert result.valid, result.text()


@pytest.mark.slow
def test_v1_comes_back_with_computed_geometry(published: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = published
    place, tree = str(tmp_path / "i"), tmp_path / "v1"
    shutil.copytree(folder / "v1", tree)
    times, values = good(url, "171A")
    cut = tree / frame_path("171A", times[4])
    cut.write_bytes(cut.read_bytes()[:2000])
    summary = import_published(str(tree), place, layout="sdoml-v1")
    assert summary.exit_code is ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(place)
    failed = table[table.outcome == "failed"]
    assert failed.reason.tolist() == ["failed_read"]
    assert failed.time.tolist() == [times[4]]
    theirs, found = good(place, "171A")
    assert theirs.tolist() == np.delete(times, 4).tolist()
    np.testing.assert_allclose(found, np.nan_to_num(np.delete(values, 4, 0)) * (1024 / PIXELS) ** 2, rtol=1e-6)
    ds = sdoml_dist.open_dataset(place)
    assert parse_recipe(ds.attrs["recipe"]).grid.convention == "sum"
    seen = sdoml_dist.to_map(ds, "171A", theirs[0])
    original = sdoml_dist.to_map(sdoml_dist.open_dataset(url, product="aia"), "171A", theirs[0])
    assert seen.rsun_obs.value == pytest.approx(original.rsun_obs.value, rel=1e-3)
    assert "computed" in sdoml_dist.header(place, "171A", theirs[0])["imported"]["keywords"]
    import_published(str(tree), place, layout="sdoml-v1", product="eve")
    for one, other in zip(good(url, "C III"), good(place, "C III"), strict=True):
        np.testing.assert_array_equal(one, other)
    result = validate(place)
    assert result.valid, result.text()


def rewrite(array: Path, order: np.ndarray) -> None:
    """Put an array in another order, as published arrays are; rows may repeat or be left out."""
    meta = json.loads((array / ".zarray").read_text())
    codec, step = numcodecs.get_codec(meta["compressor"]), meta["chunks"][0]
    chunks = sorted(array.glob("*.0.0"), key=lambda path: int(path.name.split(".")[0]))
    values = np.concatenate([np.frombuffer(codec.decode(path.read_bytes()), "<f4") for path in chunks])
    images = values.reshape(-1, *meta["shape"][1:])[order]
    for path in chunks:
        path.unlink()
    for index, low in enumerate(range(0, len(images), step)):
        block = np.zeros(meta["chunks"], "<f4")
        block[: len(images) - low] = images[low : low + step]
        (array / f"{index}.0.0").write_bytes(codec.encode(block))
    meta["shape"][0] = len(images)
    (array / ".zarray").write_text(json.dumps(meta))
    attributes = json.loads((array / ".zattrs").read_text())
    (array / ".zattrs").write_text(
        json.dumps({name: [entries[row] for row in order] for name, entries in attributes.items()})
    )


@pytest.mark.slow
def test_disorder_duplicates_and_damage(published: tuple[str, Path], tmp_path: Path) -> None:
    """Arrays out of order, with frames twice, and of different lengths: time decides, never the place."""
    url, folder = published
    shutil.copytree(folder / "v2", tmp_path / "v2")
    generator = np.random.default_rng(4)
    times, values = good(url, "171A")
    order = np.append(generator.permutation(len(times)), 3)
    rewrite(tmp_path / "v2/sdomlv2.zarr/2014/171A", order)
    field, _ = good(url, "Bz")
    rewrite(tmp_path / "v2/sdomlv2_hmi.zarr/2014/Bz", generator.permutation(len(field)))
    rewrite(tmp_path / "v2/sdomlv2_hmi.zarr/2014/Bx", np.arange(1, len(field)))
    flagged = json.loads((tmp_path / "v2/sdomlv2.zarr/2014/304A/.zattrs").read_text())
    flagged["QUALITY"][0] = 4
    (tmp_path / "v2/sdomlv2.zarr/2014/304A/.zattrs").write_text(json.dumps(flagged))
    damaged = tmp_path / "v2/sdomlv2.zarr/2014/304A/1.0.0"
    damaged.write_bytes(damaged.read_bytes()[:500])
    place = str(tmp_path / "i")
    summary = import_published(str(tmp_path / "v2"), place, layout="sdoml-v2")
    assert summary.exit_code is ExitCode.FRAMES_FAILED
    theirs, found = good(place, "171A")
    np.testing.assert_array_equal(times, theirs)
    np.testing.assert_array_equal(np.nan_to_num(values), found)
    table = sdoml_dist.frames(place)
    reasons = table[table.channel == "304A"].groupby("reason").size().to_dict()
    assert reasons["failed_read"] == 10
    assert reasons["rejected_quality"] == 1
    assert reasons["ok"] == len(good(url, "304A")[0]) - 11
    import_published(str(tmp_path / "v2"), place, layout="sdoml-v2", product="hmi")
    theirs, found = good(place, "Bz")
    np.testing.assert_array_equal(theirs, field[1:])
    np.testing.assert_array_equal(found, np.nan_to_num(good(url, "Bz")[1][1:]))
    hmi = sdoml_dist.frames(place, product="hmi", details=True)
    lost = hmi[hmi.time == field[0]]
    if len(lost):
        assert set(lost.reason) == {"missing_at_source"}


@pytest.mark.slow
def test_what_has_been_added_is_imported(published: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = published
    shutil.copytree(folder / "v2/sdomlv2.zarr", tmp_path / "s.zarr")
    for channel in ("171A", "304A"):
        rewrite(tmp_path / "s.zarr/2014" / channel, np.arange(12))
    place = str(tmp_path / "i")
    first = import_published(str(tmp_path / "s.zarr"), place, layout="sdoml-v2")
    shutil.rmtree(tmp_path / "s.zarr")
    shutil.copytree(folder / "v2/sdomlv2.zarr", tmp_path / "s.zarr")
    second = import_published(str(tmp_path / "s.zarr"), place, layout="sdoml-v2")
    assert first.outcomes["ok"] >= 24
    assert second.resumed_frames > 0
    for channel in ("171A", "304A"):
        for one, other in zip(good(url, channel), good(place, channel), strict=True):
            np.testing.assert_array_equal(np.nan_to_num(one), np.nan_to_num(other))


def test_wrong_sizes_and_places_are_refused(published: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = published
    data = {
        "name": "x", "period": {"start": "2014-03-01T12:00", "end": "2014-03-01T13:00"}, "cadence": "6min",
        "tolerance": "3min", "grid": {"pixels": 32}, "store": {"url": str(tmp_path / "d")},
        "source": {"kind": "published", "layout": "sdoml-v2", "url": str(folder / "v2/sdomlv2.zarr"), "pixels": PIXELS},
    }  # fmt: skip
    with pytest.raises(UsageError, match="64 pixels per axis, the grid 32"):
        make_source(parse_recipe(data))
    data["source"] = {**data["source"], "pixels": 32}  # type: ignore[dict-item]
    recipe = parse_recipe(data)
    with pytest.raises(UsageError, match="64 pixels per axis, the recipe 32"):
        make_source(recipe).prepare(["171A"], recipe.period.first, recipe.period.last)
    with pytest.raises(UsageError, match="no product 'sun'"):
        import_published(str(folder), str(tmp_path / "d"), layout="sdoml-v2", product="sun")


def test_names_are_read_as_they_are_written() -> None:
    time = np.datetime64("2011-02-15T06:42", "ns")
    for channel in ("94A", "1600A", "Bx", "Ic_720s"):
        assert read_frame_path(frame_path(channel, time)) == (channel, time)
    assert frame_path("171A", time) == "2011/AIA/0171/02/15/AIA20110215_0642_0171.npz"
    assert read_frame_path("AIA20110215_0642_0172.npz") is None
    assert read_frame_path("AIA20111315_0642_0171.npz") is None
    with pytest.raises(FrameError):
        read_npz(b"PK\x03\x04 no archive")
