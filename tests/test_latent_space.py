"""The latent-space experiment end to end on simulated suns: train, go on, encode, search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sdoml_dist.cli import main
from sdoml_dist.engine.encode import encode
from sdoml_dist.engine.run import build
from sdoml_dist.errors import RecipeError, StoreError, UsageError
from sdoml_dist.pipelines.encode import Trained, encoding_samples
from sdoml_dist.recipe_base import Store
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.report.validate import validate
from sdoml_dist.store.catalog import open_catalog
from sdoml_dist.store.reader import open_dataset
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.run import load_config, train_experiment
from sdoml_dist.training.trainer import read_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHANNELS = ["171A", "193A"]


@pytest.fixture(scope="module")
def dataset(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build a day of two channels, a frame an hour, one of them missing."""
    url = str(tmp_path_factory.mktemp("latent") / "d")
    faults = [{"channel": "193A", "time": "2011-02-10T05:00", "kind": "missing"}]
    recipe = parse_recipe(
        {
            "name": "small", "period": {"start": "2011-02-10", "end": "2011-02-11"}, "cadence": "1h", "tolerance": "1min",
            "channels": CHANNELS, "grid": {"pixels": 128}, "store": {"url": url}, "chunking": {"shard_slots": 6},
            "source": {"kind": "simulator", "simulation": {"pixels": 256, "faults": faults}},
        }
    )  # fmt: skip
    build(recipe)
    return url


def config_file(folder: Path, url: str, **changes: Any) -> Path:
    data = {
        "experiment": "latent-space", "name": "run", "output": str(folder),
        "data": {
            "store": {"url": url}, "channels": CHANNELS, "statistics_samples": 8, "threads": 2,
            "split": {"kind": "blocks", "fractions": {"train": 0.7, "validation": 0.3}, "block": "3h", "gap": "0s"},
        },
        "network": {"latent": 8, "narrowing": 16},
        "training": {"steps": 6, "global_batch": 4, "micro_batch": 2, "learning_rate": 0.001},
        "watching": {"validate_every": 3, "checkpoint_every": 3, "log_every": 1},
        "workers": {"number": 2, "cpus": 0.5},
    } | changes  # fmt: skip
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_train_go_on_encode_and_search(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(tmp_path, dataset)
    assert main(["train", str(path)]) == 0
    assert "step 6" in capsys.readouterr().out
    # The same command with more steps goes on, with the version and the statistics of the beginning.
    outcome = train_experiment(load_config(path, ["training.steps=8", "workers.number=1"]))
    assert outcome.step == 8
    assert [line["step"] for line in read_log(tmp_path / "run")] == list(range(1, 9))
    with pytest.raises(StoreError, match=r"network\.latent"):
        train_experiment(load_config(path, ["network.latent=16"]))

    trained = Trained(outcome.checkpoint)
    assert trained.about["samples"]["snapshot"] == json.loads((tmp_path / "run/prepared.json").read_text())["snapshot"]
    catalog = str(tmp_path / "latents")
    done = encode(str(tmp_path / "run"), Store(url=dataset), Store(url=catalog), rows=10, log_variance=True)
    assert (done.rows, done.ok, done.units) == (24, 23, 3)
    opened = open_catalog(catalog)
    assert opened.validate() == []
    assert opened.accounting()["missing"] == 1
    # What is in the catalog is what the network gives for each image alone.
    samples, _ = encoding_samples(trained, Store(url=dataset), None)
    inputs = Loader(samples, trained.transforms, 128, threads=1).read(np.array([7]))["inputs"]
    mean, _ = trained.encode(inputs)
    row = int(np.flatnonzero(opened.times == samples.times[7])[0])
    np.testing.assert_allclose(opened.latents()[row], mean[0], rtol=1e-4, atol=1e-5)
    assert trained.decode(mean).shape == (1, 2, 128, 128)
    # The same command does nothing more; another network is refused.
    again = encode(str(tmp_path / "run"), Store(url=dataset), Store(url=catalog), rows=10, log_variance=True)
    assert (again.units, again.resumed_units) == (0, 3)
    with pytest.raises(StoreError, match="another catalog"):
        encode(str(tmp_path / "run"), Store(url=dataset), Store(url=catalog), rows=10)
    assert main(["similar", catalog, "--time", "2011-02-10T12:00", "-k", "3"]) == 0
    assert "2011-02-10" in capsys.readouterr().out
    # Suns were drawn while it learned, and the table of a part can be made.
    assert list((tmp_path / "run").rglob("suns_*.png"))
    assert main(["evaluate", str(tmp_path / "run"), "--part", "validation"]) == 0
    assert (tmp_path / "run" / "evaluation-validation" / "table.md").is_file()
    # Images of the latents, as a dataset; the same command makes nothing twice.
    decoded = str(tmp_path / "decoded")
    command = ["decode", catalog, decoded, "--checkpoint", str(tmp_path / "run"), "--shard-slots", "12"]
    capsys.readouterr()
    assert main(command) == 0
    assert "48 frames, 46 with an image, in 4 shards and 1 commits" in capsys.readouterr().out
    images = open_dataset(decoded)["193A"].sel(time=samples.times[7]).values
    np.testing.assert_allclose(images, trained.decode(mean)[0, 1], rtol=1e-3, atol=1e-3)
    assert main(command) == 0
    assert "0 frames" in capsys.readouterr().out
    assert validate(decoded).valid, validate(decoded).text()


def test_what_does_not_fit_is_refused(dataset: str, tmp_path: Path) -> None:
    path = config_file(tmp_path, dataset)
    with pytest.raises(RecipeError, match="did you mean 'latent'"):
        load_config(path, ["network.latnet=3"])
    with pytest.raises(UsageError, match="not a checkpoint"):
        encode(str(tmp_path), Store(url=dataset), Store(url=str(tmp_path / "c")))
    with pytest.raises(UsageError):
        train_experiment(load_config(path, ["data.channels=[171A, Bz]"]))
