"""Tables and pictures of reconstructions, and the linear code that they are compared with."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from sdoml_dist.cli import main
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments import EVALUATIONS, EXPERIMENTS
from sdoml_dist.experiments.latent_space_table import PUBLISHED, Evaluation
from sdoml_dist.models.pca import PrincipalComponents
from sdoml_dist.report.suns import limits, write_suns
from sdoml_dist.solar.image_metrics import MetricMeans, image_metrics


def test_principal_components_are_those_of_a_singular_value_decomposition() -> None:
    random = np.random.default_rng(3)
    images = (random.normal(size=(20, 5)) @ random.normal(size=(5, 48)) * 3 + 7).astype(np.float32).reshape(20, 3, 4, 4)
    images += random.normal(size=images.shape).astype(np.float32) * 0.1
    rows = images.reshape(20, -1).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, _, vectors = np.linalg.svd(centred, full_matrices=False)
    found = PrincipalComponents.fit(images.copy(), 4)
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(np.abs(np.sum(found.components * vectors[:4], axis=1)), 1, atol=1e-4)
    expected = rows.mean(axis=0) + centred @ vectors[:4].T @ vectors[:4]
    np.testing.assert_allclose(found.reconstruct(images).reshape(20, -1), expected, atol=1e-3)
    # As many as there are images, less one: everything.
    np.testing.assert_allclose(PrincipalComponents.fit(images.copy(), 99).reconstruct(images), images, atol=1e-3)
    with pytest.raises(UsageError):
        PrincipalComponents.fit(images[:1].copy(), 3)


def test_published_tables_are_those_of_the_paper() -> None:
    # Spot checks against the text of the paper: correlation above 0.91 for all EUV channels and above 0.98 for 1600, 1700.
    for table in PUBLISHED.values():
        assert len(table) == 12
        for channel, row in table.items():
            if channel.endswith("A"):
                assert row["correlation"] > (0.98 if channel in ("1600A", "1700A") else 0.91)
            assert 0 <= row["ppe10"] <= row["ppe50"] <= 1
    assert PUBLISHED[256]["Bz"] == {"correlation": 0.84, "ppe50": 0.08, "ppe10": 0.02, "rmse": 5.39}
    assert PUBLISHED[2048]["193A"]["rmse"] == 213.18


def test_a_table_has_published_and_own_figures() -> None:
    random = np.random.default_rng(0)
    real = random.uniform(10, 20, (4, 2, 8, 8)).astype(np.float32)
    network, linear = MetricMeans(("171A", "Bz")), MetricMeans(("171A", "Bz"))
    network.add(image_metrics(real, real * 1.25))
    linear.add(image_metrics(real, real * 3))
    about = {"dataset": "d", "snapshot": "S", "part": "test", "images": 4, "size": 8, "checkpoint": "c", "step": 5}
    evaluation = Evaluation(300, 12, ("171A", "Bz"), network, linear, about)
    assert evaluation.published_latent == 256
    rows = list(csv.DictReader(io.StringIO(evaluation.to_csv())))
    found = {(row["channel"], row["method"], row["metric"]): float(row["value"]) for row in rows}
    assert found["171A", "published, 256", "rmse"] == 209.46
    assert found["Bz", "sigma-VAE, 300", "ppe50"] == 1
    assert found["Bz", "PCA, 12", "ppe50"] == 0
    assert found["171A", "sigma-VAE, 300", "flux_difference"] == pytest.approx(0.25, rel=1e-5)
    text = evaluation.to_markdown()
    assert text.count("\n| 171A |") == 2
    assert "12 principal components only" in text
    header, line = (
        next(one for one in text.splitlines() if one.startswith(start)) for start in ("| channel", "| 171A")
    )
    assert header.count("|") == line.count("|") == 14
    assert "209.46" in evaluation.to_text()


def test_suns_are_drawn_alike(tmp_path: Path) -> None:
    image = np.full((2, 32, 32), 100.0, np.float32)
    image[:, 8:24, 8:24] = 1000.0
    image[1] -= 600
    image[:, 0, 0] = np.nan
    assert limits(image[1], True)[0] == -limits(image[1], True)[1]
    assert limits(np.full(4, np.nan), False) == (0.0, 1.0)
    path = write_suns(
        tmp_path / "suns.png", [("real", image), ("half", image / 2)], ("171A", "Bz"), "two suns", reference=[0]
    )
    pixels = imread(path)
    assert pixels.ndim == 3
    assert pixels.shape[0] > 300
    # The second row is darker in 171, as it is by the limits of the first.
    half, left, width = pixels.shape[0] // 2, int(1.25 * 120), int(1.45 * 120)
    middle = slice(left + width // 3, left + 2 * width // 3)
    first, second = pixels[half // 2 + 37, middle, :3].mean(), pixels[half + half // 2 + 37, middle, :3].mean()
    assert first > second > 0
    with pytest.raises(UsageError):
        write_suns(tmp_path / "no.png", [], ("171A",), "", reference=[])


def test_only_checkpoints_of_experiments_with_tables_are_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(EVALUATIONS) <= set(EXPERIMENTS)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "not a checkpoint" in capsys.readouterr().err
    (tmp_path / "checkpoint.json").write_text('{"experiment": "nothing"}')
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "which has no table" in capsys.readouterr().err
