"""What is done with a trained network and its latents, without a cluster: tables, decoding, pictures, compression, forecasts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import sdoml_dist
from sdoml_dist.cli import main
from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.experiments.latent_space import LatentSpace, LatentSpaceConfig
from sdoml_dist.pipelines.decode import ShardDecoder, catalog_slots, decoded_recipes, on_disc
from sdoml_dist.pipelines.encode import Trained, UnitEncoder, catalog_info, encoding_samples
from sdoml_dist.pipelines.flux import daily_latents, forecast_config
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.catalog import CatalogInfo, CatalogWriter, catalog_units, open_catalog
from sdoml_dist.store.made import Output, Shard, made_recipes, nominal_frames, slot_period, write_shard
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.loop import Loop, Worker

CHANNELS = ("171A", "211A", "Bz")
CADENCE, SIZE, LATENT = 21600, 128, 4
TIMES = np.arange("2011-12-30T12:00", "2012-01-02T00:00", 360, "datetime64[m]").astype("datetime64[ns]")
MISSING = 3
"""Which of the times has no image."""


def sun(channel: str, number: int) -> np.ndarray:
    """Return a disc with a bright spot that moves."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32) - (SIZE - 1) / 2
    disc = 1 / (1 + np.exp((np.hypot(x, y) - 50) / 2))
    spot = np.exp(-((x + 40 - 8 * number) ** 2 + (y - 20) ** 2) / 60)
    if channel == "Bz":
        return np.where(on_disc(SIZE, 976.0), 300 * spot - 20 * disc, np.nan).astype(np.float32)
    image: np.ndarray = (100 * disc + 900 * spot + len(channel)).astype(np.float32)
    return image


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Make a dataset of suns whose spot moves."""
    store = Store(url=str(tmp_path_factory.mktemp("verbs") / "suns"))
    source = NetworkConfig(
        kind="network",
        experiment="none",
        checkpoint="0" * 16,
        url="nowhere",
        snapshot="S",
        channels=CHANNELS,
        pixels=SIZE,
    )
    recipes = made_recipes(
        store, CHANNELS, source, name="suns", period=slot_period(TIMES, CADENCE), cadence_s=CADENCE, pixels=SIZE,
        solar_radius_arcsec=976.0, shard_slots=4,
    )  # fmt: skip
    output = Output(recipes)
    receipts = []
    for task in output.tasks(TIMES):
        numbers = np.searchsorted(TIMES, slot_times(task.year, CADENCE)[task.slots])
        ok = numbers != MISSING
        for product, unit in task.units:
            recipe = output.recipes[product]
            names = recipe.bundle(unit.bundle).channels
            status = np.where(ok, int(FrameStatus.OK), int(FrameStatus.REJECTED_QUALITY)).astype(np.uint8)
            values = np.stack([[sun(name, number) for number in numbers] for name in names])
            keywords, texts = nominal_frames(recipe, unit, task.slots, ok, {})
            shard = Shard(product, unit, task.slots, values, status[:, None].repeat(len(names), 1), keywords, texts)
            receipts.append((product, write_shard(output.fork_bytes, recipe, shard)))
    output.commit(receipts)
    output.finish()
    return store


def save(experiment: LatentSpace, folder: Path, seed: int, **optimisation: Any) -> Loop:
    """Save a network that has learned nothing as a training does."""
    folder.mkdir()
    settings = Optimisation.model_validate({"seed": seed, **optimisation})
    loop = Loop(experiment, settings, Watching.model_validate({}), Worker())
    loop.save(folder, {})
    return loop


@pytest.fixture(scope="module")
def run(dataset: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the checkpoint of a network that has learned nothing."""
    folder = tmp_path_factory.mktemp("run")
    split = {"kind": "blocks", "fractions": {"train": 0.7, "test": 0.3}, "block": "6h", "gap": "0s"}
    config = LatentSpaceConfig.model_validate(
        {
            "data": {"store": dataset.model_dump(), "channels": CHANNELS, "statistics_samples": 4, "threads": 2, "split": split},
            "network": {"latent": LATENT, "narrowing": 32},
        }
    )  # fmt: skip
    plain = json.loads(json.dumps(LatentSpace.prepare(config, folder)))
    experiment = LatentSpace({"config": config.model_dump(mode="json"), "prepared": plain})
    save(experiment, folder / "checkpoint_00000000", seed=1)
    experiment.sample_grid({"model": experiment.model()}, folder, 7)
    return folder


@pytest.fixture(scope="module")
def catalog(dataset: Store, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Encode the dataset in this process."""
    place = Store(url=str(tmp_path_factory.mktemp("catalog") / "latents"))
    trained = Trained(checkpoints.chosen(run))
    samples, times = encoding_samples(trained, dataset, None)
    CatalogWriter(place, catalog_info(trained, samples, 4, "float32", False)).begin()
    encoder = UnitEncoder(
        str(checkpoints.chosen(run)), dataset, samples.snapshot, place, 4, "float32", False, "cpu", threads=2
    )
    for unit in catalog_units(times, 4):
        encoder.encode(unit.name)
    return place


def test_a_network_is_evaluated_and_its_suns_are_drawn(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imread(run / "suns_00000007.png").shape[2] >= 3
    assert main(["evaluate", str(run), "-o", str(tmp_path / "e")]) == 0
    told = capsys.readouterr().out
    assert f"sigma-VAE, {LATENT}" in told
    assert "published, 256" in told
    with (tmp_path / "e" / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["channel"] == "171A" and row["metric"] == "rmse"]
    assert [row["method"] for row in rows] == ["published, 256", f"sigma-VAE, {LATENT}", f"PCA, {LATENT}"]
    assert rows[1]["images"] == rows[2]["images"] == "2"
    # A network that has learned nothing is worse than a linear code.
    assert float(rows[1]["value"]) > float(rows[2]["value"]) > 0
    for name in ("reconstructions.png", "drawn.png"):
        assert imread(tmp_path / "e" / name).std() > 0.01
    assert main(["evaluate", str(run), "--part", "validation"]) == 2
    assert "There are: " in capsys.readouterr().err


def test_latents_are_decoded_into_a_dataset(dataset: Store, run: Path, catalog: Store, tmp_path: Path) -> None:
    opened, trained = open_catalog(catalog), Trained(checkpoints.chosen(run))
    output = Output(decoded_recipes(trained, opened, Store(url=str(tmp_path / "decoded")), shard_slots=4))
    decoder = ShardDecoder(str(checkpoints.chosen(run)), catalog, output.recipes, "cpu")
    tasks = output.tasks(catalog_slots(opened))
    assert sum(task.slots.size for task in tasks) == TIMES.size
    for task in tasks:
        output.commit(
            [
                (one.product, write_shard(output.fork_bytes, output.recipes[one.product], one))
                for one in decoder.make(task)
            ]
        )
    output.finish()
    assert output.tasks(catalog_slots(opened)) == []
    url = str(tmp_path / "decoded")
    assert validate(url).valid, validate(url).text()
    ds = sdoml_dist.open_dataset(url, product="aia")
    np.testing.assert_array_equal(ds.time.values, TIMES)
    assert ds.status.values[MISSING].tolist() == [int(FrameStatus.MISSING_NO_FRAME)] * 2
    expected = trained.decode(opened.latents())
    there = np.arange(TIMES.size) != MISSING
    np.testing.assert_allclose(ds["211A"].values[there], expected[:, 1], rtol=1e-5)
    field = sdoml_dist.open_dataset(url, product="hmi")["Bz"].values[there]
    inside = on_disc(SIZE, 976.0)
    np.testing.assert_allclose(field[:, inside], expected[:, 2][:, inside], rtol=1e-5, atol=1e-5)
    assert np.isnan(field[:, ~inside]).all()
    assert sdoml_dist.header(url, "171A", TIMES[0])["made"]["checkpoint"] == trained.hash
    # Other weights have other latents.
    other = tmp_path / "checkpoint_00000009"
    save(LatentSpace({"config": trained.about["config"], "prepared": trained.about["prepared"]}), other, seed=2)
    with pytest.raises(StoreError, match="were made by weights"):
        decoded_recipes(Trained(other), opened, Store(url=url))
    with pytest.raises(StoreError, match="from another recipe"):
        Output(decoded_recipes(trained, opened, dataset, shard_slots=4))


def test_averaged_weights_are_what_a_checkpoint_gives(run: Path, tmp_path: Path) -> None:
    trained = Trained(checkpoints.chosen(run))
    experiment = LatentSpace({"config": trained.about["config"], "prepared": trained.about["prepared"]})
    loop = save(experiment, tmp_path / "c", seed=1, ema=0.9)
    assert loop.average is not None
    with torch.no_grad():
        for parameter in loop.average.network.parameters():
            parameter.add_(1.0)
    (tmp_path / "d").mkdir()
    loop.save(tmp_path / "d", {})
    for place, number in (("c", 0.0), ("d", 1.0)):
        found = Trained(tmp_path / place)
        torch.testing.assert_close(
            found.network.to_mean.bias, loop.networks["model"].get_parameter("to_mean.bias") + number
        )
        assert found.hash == checkpoints.model_hash(tmp_path / place, checkpoints.EMA)


def test_similar_suns_are_drawn(catalog: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "similar.png"
    arguments = ["similar", catalog.url, "--time", str(TIMES[5]), "-k", "3", "-o", str(picture)]
    assert main([*arguments, "--channels", "211A", "Bz"]) == 0
    assert str(picture) in capsys.readouterr().out
    # Four suns of two channels.
    height, width = imread(picture).shape[:2]
    assert (height, width) == (round((0.62 + 4 * 1.45) * 120), round((1.25 + 2 * 1.45) * 120))
    assert main([*arguments, "--channels", "94A"]) == 2
    assert "94A was not encoded" in capsys.readouterr().err
    assert main([*arguments, "--dataset", str(tmp_path / "nowhere")]) == 2


def test_compression_of_a_dataset(
    dataset: Store, run: Path, catalog: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compression", dataset.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == TIMES.size - 1
    assert [row["latent"] for row in told["arithmetic"]] == [256, 512, 1024, 2048]
    assert told["arithmetic"][0]["original_bytes"] == 4 * (TIMES.size - 1) * 3 * SIZE**2
    assert told["lossless"]["raw_bytes"] == told["arithmetic"][0]["original_bytes"]
    on_disk = sum(path.stat().st_size for path in Path(dataset.url, "icechunk").rglob("*") if path.is_file())
    assert told["lossless"]["stored_bytes"] == on_disk
    assert [round(row["percent"], 2) for row in told["published"]] == [0.19, 0.33, 0.61, 1.17]
    assert main(["compression", dataset.url, "--catalog", catalog.url, "--checkpoint", str(run)]) == 0
    text = capsys.readouterr().out
    assert "By files:" in text
    assert f"{TIMES.size - 1} x {LATENT}, catalog on disk" in text
    assert main(["compression", dataset.url, "--catalog", catalog.url]) == 2
    assert main(["compression", dataset.url, "--channels", "94A"]) == 2


def test_a_catalog_is_compacted(catalog: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_catalog(catalog).latents()
    assert main(["compact", catalog.url]) == 0
    assert "are now 2" in capsys.readouterr().out
    np.testing.assert_array_equal(open_catalog(catalog).latents(), before)


def daily_catalog(folder: Path, flux: np.ndarray, days: np.ndarray) -> str:
    """Write latents that know the flux of their day, two a day of which that at 1 UT is wrong."""
    info = CatalogInfo(dataset="d", snapshot="S", channels=("171A",), checkpoint="c", model="test", latent=3)
    writer = CatalogWriter(str(folder), info)
    writer.begin()
    for month in np.unique(days.astype("datetime64[M]")):
        inside = days.astype("datetime64[M]") == month
        times = np.concatenate([days[inside], days[inside]]).astype("datetime64[ns]")
        times[inside.sum() :] += np.timedelta64(1, "h")
        right = np.column_stack([flux[inside], flux[inside] ** 2 / 100, np.ones(inside.sum())])
        writer.write(f"u{month}", times, np.concatenate([right, -right]).astype(np.float32))
    return str(folder)


def test_the_flux_is_forecast_from_a_catalog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    days = np.arange("2011-01-01", "2013-01-01", dtype="datetime64[D]")
    flux = 120 + 30 * np.sin(np.arange(days.size) / 27 * 2 * np.pi)
    lines = ["date,f107", *(f"{day}".replace("-", "") + f",{value:.2f}" for day, value in zip(days, flux, strict=True))]
    (tmp_path / "flux.csv").write_text("\n".join(lines))
    place = daily_catalog(tmp_path / "latents", flux, days)
    found, values = daily_latents(open_catalog(place))
    np.testing.assert_array_equal(found, days)
    np.testing.assert_allclose(values[:, 0], flux, rtol=1e-5)
    changes = ("first_day=2011-02-01", "last_day=2012-12-25", "held_out_years=[2012]", "trees=[5,20]", "horizons=[3]")
    arguments = ["flux", str(tmp_path / "flux.csv"), "--catalog", f"mine={place}", "-o", str(tmp_path / "out")]
    for change in changes:
        arguments += ["--set", change]
    assert main(arguments) == 0
    assert "mine" in capsys.readouterr().out
    scores: list[dict[str, Any]] = json.loads((tmp_path / "out" / "radio_flux.json").read_text())["scores"]
    by_method = {score["method"]: score["rmse"] for score in scores}
    assert by_method["persistence"] > 10
    assert (tmp_path / "out" / "radio_flux.png").stat().st_size > 10_000
    assert main(["flux", str(tmp_path / "flux.csv")]) == 2
    assert main(["flux", str(tmp_path / "none.csv"), "--catalog", place, *arguments[6:]]) == 2
    assert "no table of radio flux" in capsys.readouterr().err
    with pytest.raises(UsageError, match="Its keys are"):
        forecast_config(["tree=5"])


def test_the_flux_is_forecast_from_images_by_a_network_that_knows_no_sun(dataset: Store) -> None:
    from sdoml_dist.models.resnet import FeatureNetwork
    from sdoml_dist.pipelines.flux import daily_resnet_features

    days, features = daily_resnet_features(dataset, FeatureNetwork(), channel="211A", size=64)
    # The last image of 18 UT is the nearest one to the next midnight.
    assert days.astype(str).tolist() == ["2011-12-31", "2012-01-01", "2012-01-02"]
    assert features.shape == (3, 512)
    assert np.abs(features[0] - features[1]).max() > 0
