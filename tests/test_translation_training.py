"""Image translation from a dataset to tables, maps and datasets, and on two workers of a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from astropy.io import fits

from sdoml_dist.cli import main
from sdoml_dist.experiments.translation_apply import Translator
from sdoml_dist.pipelines.apply import application
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.euvi_simulator import euvi_fits
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.experiment import find_experiment
from sdoml_dist.training.log import read_log
from sdoml_dist.training.loop import Loop, Worker
from sdoml_dist.training.run import load_config
from tests.translation_suns import SIZE, blobs, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TIMES = np.arange("2011-02-10", "2011-03-13", dtype="datetime64[D]").astype("datetime64[ns]")
PARTS = {
    "train": ["2011-02-10", "2011-03-06"],
    "validation": ["2011-03-06", "2011-03-08"],
    "test": ["2011-03-08", "2011-03-13"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("translation"), TIMES, missing=1)


def experiment_file(folder: Path, url: str, name: str, **changes: Any) -> Path:
    split = {"kind": "periods", "periods": PARTS}
    data = {
        "experiment": "far-side", "name": name, "output": str(folder),
        "data": {"store": {"url": url}, "cadence": "1d", "threads": 1, "split": split} | changes.pop("data", {}),
        "network": {"narrowing": 16} | changes.pop("network", {"version": 1}),
        "training": {"steps": 2, "global_batch": 2, "micro_batch": 1, "learning_rate": 0.0002, "betas": [0.5, 0.999], "ema": 0.5},
        "watching": {"validate_every": 2, "checkpoint_every": 2, "log_every": 1},
        "workers": {"number": 1, "cpus": 0.5},
    } | changes  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def trained(path: Path) -> Path:
    """Train in this process, as a worker does, and return the checkpoint."""
    config = load_config(path)
    kind = find_experiment(config.experiment)
    folder = path.parent / config.name
    prepared = kind.prepare(config, folder)
    loop = Loop(
        kind({"config": config.model_dump(mode="json"), "prepared": prepared}),
        Optimisation.model_validate(config.training), Watching.model_validate(config.watching), Worker(),
    )  # fmt: skip
    seen: list[Any] = []
    loop.run(seen.append)
    assert len(seen) == config.training.steps
    place = folder / "checkpoint_00000002"
    place.mkdir(parents=True)
    loop.save(place, {})
    loop.experiment.sample_grid(loop.shown(), folder, 2)
    assert (folder / "samples_00000002.png").stat().st_size > 5000
    return place


def test_from_a_dataset_to_a_table_and_the_far_side(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = trained(experiment_file(tmp_path, dataset, "first"))
    assert main(["evaluate", str(place), "--output", str(tmp_path / "table")]) == 0
    told = capsys.readouterr().out
    assert "full disc, published, version 1" in told
    assert "regression from 304" in told
    assert (tmp_path / "table/samples.png").stat().st_size > 5000
    about = json.loads((tmp_path / "table/about.json").read_text())
    assert about["snapshot"]
    assert about["part"] == "test"
    assert main(["evaluate", str(place), "--part", "nowhere"]) == 2

    # Applied to STEREO: a file with an observer, and the reason why another was not used.
    frames = tmp_path / "euvi"
    frames.mkdir()
    time = np.datetime64("2011-03-12T00:10", "ns")
    (frames / "a.fts").write_bytes(euvi_fits(SimulationConfig(), "STEREO_A", 304, time, 128))
    (frames / "b.fts").write_bytes(b"no fits")
    assert main(["far-side", str(place), str(frames), str(tmp_path / "fields")]) == 3
    (made,) = (tmp_path / "fields").glob("*.fits")
    with fits.open(made) as file:
        header, field = file[0].header, file[0].data
    assert header["TELESCOP"] == "STEREO_A"
    assert "failed_not_fits" in (tmp_path / "fields/frames.csv").read_text()
    assert header["HGLN_OBS"] == pytest.approx(88.0, abs=1)
    assert "EUVI 304" in str(header["HISTORY"])
    assert np.isnan(field[0, 0])
    assert np.abs(field[np.isfinite(field)]).max() <= 100
    (frames / "a.fts").unlink()
    assert main(["far-side", str(place), str(frames), str(tmp_path / "none")]) == 2

    # Applied to SDO, slot by slot.
    applied = application(place)
    assert isinstance(applied, Translator)
    assert (applied.inputs, applied.outputs, applied.pixels) == (("304A",), {"M_720s": "G"}, SIZE)
    images, headers = blobs(2)[:, :1], [{"TIME": time} for time in TIMES[:2]]
    both = applied.run(images, headers)
    assert both.shape == (2, 1, SIZE, SIZE)
    np.testing.assert_allclose(applied.run(images[1:], headers[1:])[0], both[1], atol=1e-3)


def test_version_3_sees_what_was_there_a_rotation_before(dataset: str, tmp_path: Path) -> None:
    split = {
        "kind": "periods",
        "periods": {"train": ["2011-02-10", "2011-03-12"], "test": ["2011-03-12", "2011-03-13"]},
    }
    path = experiment_file(tmp_path, dataset, "third", data={"split": split}, network={"version": 3})
    place = trained(path)
    frames = tmp_path / "euvi"
    frames.mkdir()
    time = np.datetime64("2011-03-12T00:10", "ns")
    for wavelength in (304, 195, 171):
        (frames / f"{wavelength}.fts").write_bytes(euvi_fits(SimulationConfig(), "STEREO_A", wavelength, time, 128))
    assert main(["far-side", str(place), str(frames), str(tmp_path / "fields")]) == 0
    (made,) = (tmp_path / "fields").glob("*.fits")
    # Its longitudes faced Earth 88 / 360 of a rotation, 6.7 days, before.
    assert str(fits.getheader(made)["HISTORY"]).count("reference SDO 2011-03-05") == 4
    # STEREO-B's did so 20 days before, when the dataset had not begun.
    early = np.datetime64("2011-02-20T00:10", "ns")
    for wavelength in (304, 195, 171):
        (frames / f"{wavelength}.fts").write_bytes(euvi_fits(SimulationConfig(), "STEREO_B", wavelength, early, 64))
    assert main(["far-side", str(place), str(frames), str(tmp_path / "late")]) == 3
    assert not list((tmp_path / "late").glob("*.fits"))
    assert "STEREO_B_20110220_001000,STEREO_B,2011-02-20T00:10" in (tmp_path / "late/sets.csv").read_text()
    assert ",no_reference," in (tmp_path / "late/sets.csv").read_text()
    assert application(place).before == ("304A", "193A", "171A", "M_720s")


@pytest.mark.parametrize("name", ["hmi-to-aia", "galileo"])
def test_the_other_translations_train_and_have_tables(
    name: str, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"channels": ["304A", "171A"]} if name == "hmi-to-aia" else {"target": "M_720s"}
    network = {"model": "A"} if name == "hmi-to-aia" else {}
    place = trained(experiment_file(tmp_path, dataset, name, experiment=name, data=data, network=network))
    assert (place / "discriminator.safetensors").is_file() == (name == "galileo")
    assert main(["evaluate", str(place), "--part", "validation"]) == 0
    told = capsys.readouterr().out
    assert "PPE10" in told
    assert ("171A, mean image and |B|" if name == "hmi-to-aia" else "mean image") in told
    applied = application(place)
    made = applied.run(blobs(1)[:, 3 if name == "hmi-to-aia" else 4 :][:, :1], [{"TIME": TIMES[0]}])
    assert made.shape == (1, len(applied.outputs), SIZE, SIZE)
    assert np.isfinite(made).any()


def test_two_workers_make_the_updates_of_one(ray_cluster: Any, dataset: str, tmp_path: Path) -> None:
    path = experiment_file(tmp_path, dataset, "together", workers={"number": 2, "cpus": 0.5})
    assert main(["train", str(path)]) == 0
    alone: list[Any] = []
    config = load_config(path)
    kind = find_experiment("far-side")
    settings = {"config": config.model_dump(mode="json"), "prepared": kind.prepare(config, tmp_path)}
    torch.set_num_threads(1)
    Loop(kind(settings), config.training, config.watching, Worker()).run(alone.append)
    for one, line in zip(alone, read_log(tmp_path / "together"), strict=True):
        for key in ("discriminator_loss", "generator_loss", "generator_l1"):
            assert line[key] == pytest.approx(one.metrics[key], rel=2e-3), (line["step"], key)
    (made,) = (tmp_path / "together").glob("checkpoint_*")
    assert (made / "generator.safetensors").is_file()
    assert (made / "ema.safetensors").is_file()
