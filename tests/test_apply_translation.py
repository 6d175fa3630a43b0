"""Networks of translation that see more than one moment, or make what no dataset stores, applied by sdoml apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.pipelines.apply import application, input_samples, samples_before
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.drawing import quiet_sun
from sdoml_dist.store.reader import accounting, open_products
from tests import translation_suns
from tests.test_drawing_verb import saved as saved_galileo
from tests.test_far_side_folder import saved as saved_far_side
from tests.translation_suns import CHANNELS, blobs, write_dataset

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


@pytest.mark.parametrize("batch", ["1", "3"])
def test_an_image_without_light_fails_alone(
    batch: str, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours in the batch are made."""
    suns = blobs(3)
    suns[1, 0] = 0.0
    monkeypatch.setattr(translation_suns, "blobs", lambda number: suns[:number])
    url, output = write_dataset(tmp_path, DAYS[:3], missing=0), tmp_path / "fields"
    run = saved_far_side(tmp_path / "run", 2, url)
    options = ["--batch", batch, "--shard-slots", "4"]
    assert main(["apply", str(run), url, str(output), *options]) == ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(output, details=True)
    assert table.reason.tolist() == ["missing_no_frame", "failed_no_data", "ok"]
    # Of the three channels.
    assert table.detail[1] == "The median over the disc is 0 in 1 of 3 images."
    assert np.isfinite(sdoml_dist.open_dataset(output)["M_720s"].values[2]).any()
