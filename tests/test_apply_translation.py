"""Networks of translation that see more than one moment, or make what no dataset stores, applied by sdoml apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.experiments.far_side_euvi import References
from sdoml_dist.experiments.hmi_to_aia import HmiToAia
from sdoml_dist.pipelines.apply import application, input_samples, samples_before, worker_bytes
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.drawing import quiet_sun
from sdoml_dist.store.reader import accounting, open_products
from tests import translation_suns
from tests.test_drawing_verb import saved as saved_galileo
from tests.test_far_side_folder import saved as saved_far_side
from tests.translation_suns import CHANNELS, SIZE, blobs, write_dataset

DAYS = np.arange("2011-02-04", "2011-03-07", dtype="datetime64[D]").astype("datetime64[ns]")
# 27.2753 days, the synodic rotation, are 27 to the nearest sample of a day.
ROTATION = 27


def test_version_3_is_applied_with_what_was_seen_a_rotation_before(ray_cluster: Any, tmp_path: Path) -> None:
    """Slots without an observation a rotation before, or with a part of it missing, are not made and say so."""
    lost = 2
    url, output = write_dataset(tmp_path, DAYS, missing=lost), tmp_path / "fields"
    snapshot = open_products(url)[0].session.snapshot_id
    run = saved_far_side(tmp_path / "run", 3, url, snapshot)
    assert main(["apply", str(run), url, str(output)]) == ExitCode.COMPLETE
    table = sdoml_dist.frames(output, details=True)
    assert len(table) == DAYS.size
    made = [ROTATION, ROTATION + 1, ROTATION + 3]
    assert np.flatnonzero(table.outcome == "ok").tolist() == made
    assert set(table.outcome) == {"ok", "missing"}
    assert "one of a rotation before" in table.detail[5]

    # What the network gives for these images, put together here.
    applied = application(run)
    assert applied.before == ("304A", "193A", "171A", "M_720s")
    suns = blobs(DAYS.size)
    about = json.loads((run / "checkpoint_00000007/checkpoint.json").read_text())
    experiment = FarSide({name: about[name] for name in ("config", "prepared")})
    values = sdoml_dist.open_dataset(output)["M_720s"].values
    for place in made:
        both = np.concatenate([suns[place, :3], suns[place - ROTATION, :4]])[None]
        seen, _, _ = experiment.encode(np.concatenate([suns[place, :4], suns[place - ROTATION, :4]])[None])
        np.testing.assert_array_equal(experiment.encode_inputs(both), seen)
        (expected,) = applied.run(both, [{"TIME": DAYS[place]}])
        np.testing.assert_allclose(values[place], expected[0], atol=1e-3)
    told = sdoml_dist.header(output, "M_720s", DAYS[ROTATION])["made"]
    assert set(told["before"]) == {"304A", "193A", "171A", "M_720s"}
    assert {moment[:10] for moment in told["before"].values()} == {str(DAYS[0])[:10]}
    assert {moment[:10] for moment in told["inputs"].values()} == {str(DAYS[ROTATION])[:10]}

    short = write_dataset(tmp_path / "short", DAYS[:5], missing=0)
    with pytest.raises(UsageError, match="one rotation before"):
        samples_before(applied, input_samples(applied, Store(url=short), None)[0])
    assert main(["apply", str(run), short, str(tmp_path / "none")]) == ExitCode.USAGE
    assert not list((tmp_path / "none").rglob("*.json"))


def test_a_made_continuum_is_in_the_unit_of_the_one_that_was_drawn(ray_cluster: Any, tmp_path: Path) -> None:
    url, output = write_dataset(tmp_path, DAYS[:3], missing=0), tmp_path / "continuum"
    run = saved_galileo(tmp_path / "run", "Ic_720s")
    assert main(["apply", str(run), url, str(output)]) == ExitCode.COMPLETE
    assert accounting(str(output)).loc["all", "ok"] == 3
    made = sdoml_dist.open_dataset(output)["Ic_720s"]
    assert made.attrs["units"] == sdoml_dist.open_dataset(url)["Ic_720s"].attrs["units"]
    true = blobs(3)[:, CHANNELS.index("Ic_720s")]
    for place, image in enumerate(true):
        relative = made.values[place] / quiet_sun(image)
        disc = np.isfinite(relative)
        assert disc.sum() > 1500
        # The values that a network's output stands for, from 0 to 2 times the quiet Sun.
        assert relative[disc].min() >= 0
        assert relative[disc].max() <= 2


def test_references_are_a_rotation_before_and_not_a_multiple_of_the_samples(tmp_path: Path) -> None:
    """27.2753 days before noon it was 5:24; of a dataset with a slot every 2 hours that of 6:00 is taken by all that need it."""
    hours = np.arange(13) * np.timedelta64(2 * 3600, "s")
    days = np.array(["2011-02-04", "2011-03-03"], "datetime64[ns]")
    times = np.concatenate([day + hours for day in days])
    url = write_dataset(tmp_path, times, missing=None, cadence_s=7200)
    run = saved_far_side(tmp_path / "run", 3, url, open_products(url)[0].session.snapshot_id)
    about = json.loads((run / "checkpoint_00000007/checkpoint.json").read_text())
    settings = {name: about[name] for name in ("config", "prepared")}
    settings["config"]["data"] |= {"cadence": 43200, "split": {"kind": "whole"}}
    wanted = np.datetime64("2011-02-04T06:00", "ns")
    noon = np.datetime64("2011-03-03T12:00", "ns")
    now, before = FarSide(settings).groups()
    assert before.times[now.times == noon].tolist() == [wanted.astype(int)]
    applied = application(run)
    samples, earlier = samples_before(applied, input_samples(applied, Store(url=url), None)[0])
    assert earlier is not None
    assert earlier.times[samples.times == noon].tolist() == [wanted.astype(int)]
    distance = (samples.times - earlier.times) / np.timedelta64(1, "h")
    assert np.abs(distance - 27.2753 * 24).max() <= 1
    # A spacecraft 90 degrees behind saw on 3 March what faces Earth a quarter of a rotation later, or three quarters before.
    references = References(FarSide(settings))
    rows = references.rows([noon + np.timedelta64(7200, "s")], [360 - 1e-9])
    assert abs(references._samples.times[rows[0]] - wanted) <= np.timedelta64(7200, "s")


def test_another_radius_of_the_sun_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Discs and fluxes would be taken where they are not; neither trained on nor applied to."""
    url = write_dataset(tmp_path, DAYS[:3], missing=None, radius_arcsec=1000.0)
    run = saved_far_side(tmp_path / "run", 2, url)
    assert main(["apply", str(run), url, str(tmp_path / "out")]) == ExitCode.USAGE
    assert "has a radius of 1000 arcsec on its grid, not 976" in capsys.readouterr().err
    about = json.loads((run / "checkpoint_00000007/checkpoint.json").read_text())
    with pytest.raises(UsageError, match="radius of 1000 arcsec"):
        FarSide.prepare(FarSide.Config.model_validate(about["config"]), tmp_path)


def test_a_worker_asks_for_the_memory_of_its_network(tmp_path: Path) -> None:
    """Weights while they are read, what is held of the images of a batch, and images that are read ahead, at their own size."""
    url = write_dataset(tmp_path, DAYS, missing=None)
    asked = {}
    snapshot = open_products(url)[0].session.snapshot_id
    for version in (2, 3):
        run = saved_far_side(tmp_path / str(version), version, url, snapshot)
        applied = application(run)
        samples, earlier = samples_before(applied, input_samples(applied, Store(url=url), None)[0])
        asked[version] = worker_bytes(applied, samples, earlier, 1)
        assert worker_bytes(applied, samples, earlier, 8) > asked[version]
        weights = sum(one.numel() for one in applied.network.parameters()) * 4  # type: ignore[attr-defined]
        assert asked[version] > 1e9 + 2 * weights
    # A second group of images is read.
    assert asked[3] > asked[2]


def saved_hmi_to_aia(folder: Path, url: str) -> Path:
    """Write a checkpoint of a small network that makes two channels of a field."""
    config = {
        "experiment": "hmi-to-aia",
        "data": {"store": {"url": url}, "size": SIZE, "field": "M_720s", "channels": ["304A", "171A"]},
        "network": {"narrowing": 16, "model": "A"},
    }
    settings = {"config": config, "prepared": {"snapshot": "none", "pixels": SIZE}}
    torch.manual_seed(0)
    place = folder / "checkpoint_00000007"
    place.mkdir(parents=True)
    save_file(HmiToAia(settings).models()["generator"].state_dict(), place / "generator.safetensors")
    about = settings | {"experiment": "hmi-to-aia", "step": 7, "metrics": {}}
    (place / "checkpoint.json").write_text(json.dumps(about))
    return folder


def test_aia_is_made_of_a_field(ray_cluster: Any, tmp_path: Path) -> None:
    """Several channels of another product than the input's; they open as maps of AIA's wavelengths."""
    url, output = write_dataset(tmp_path, DAYS[:3], missing=None), tmp_path / "aia"
    run = saved_hmi_to_aia(tmp_path / "run", url)
    assert main(["apply", str(run), url, str(output)]) == ExitCode.COMPLETE
    made = sdoml_dist.open_dataset(output)
    assert {"304A", "171A"} <= set(made.data_vars)
    applied = application(run)
    field = blobs(3)[:, CHANNELS.index("M_720s")]
    for place, day in enumerate(DAYS[:3]):
        (expected,) = applied.run(field[place][None, None], [{"TIME": day}])
        for channel, name in enumerate(applied.outputs):
            np.testing.assert_allclose(made[name].values[place], expected[channel], rtol=1e-3, atol=1e-3)
    shown = sdoml_dist.to_map(made, "171A", DAYS[1])
    assert shown.wavelength.to_value("angstrom") == 171
    assert "weights" in str(shown.meta["history"])


@pytest.mark.parametrize(
    ("experiment", "batch"), [("far-side", "1"), ("far-side", "3"), ("galileo", "3"), ("hmi-to-aia", "3")]
)
def test_an_image_without_light_fails_alone(
    experiment: str, batch: str, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours in the batch are made."""
    suns = blobs(3)
    suns[1, 0], suns[1, 3], suns[1, 4] = 0.0, np.nan, 0.0
    # Off the disc.
    suns[1, 3, 0, 0] = 0.0
    monkeypatch.setattr(translation_suns, "blobs", lambda number: suns[:number])
    url, output = write_dataset(tmp_path, DAYS[:3], missing=None), tmp_path / "made"
    saved = {
        "far-side": lambda folder: saved_far_side(folder, 2, url), "galileo": saved_galileo,
        "hmi-to-aia": lambda folder: saved_hmi_to_aia(folder, url),
    }[experiment]  # fmt: skip
    options = ["--batch", batch, "--shard-slots", "4"]
    assert main(["apply", str(saved(tmp_path / "run")), url, str(output), *options]) == ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(output, details=True)
    table = table[table.channel == table.channel[0]]
    assert table.reason.tolist() == ["ok", "failed_no_data", "ok"]
    # Of the three channels of version 2.
    why = {
        "far-side": "The median over the disc is 0 in 1 of 3 images.",
        "galileo": "There is no intensity on the disc in 1 of 1 images.",
        "hmi-to-aia": "There is no field on the disc in 1 of 1 images.",
    }[experiment]  # fmt: skip
    assert table.detail.tolist()[1] == why
    values = sdoml_dist.open_dataset(output)[table.channel.iloc[0]].values
    assert np.isfinite(values[[0, 2]]).any(axis=(1, 2)).all()
    assert np.isnan(values[1]).all()
