"""Table 1 of Brown et al. 2022, and the same of real files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.report import compression
from sdoml_dist.report.compression import (
    MIB,
    PAPER_LATENTS,
    compression_rows,
    compression_text,
    measured,
    sigma_vae_bytes,
    sigma_vae_parameters,
)
from sdoml_dist.store.catalog import CatalogWriter
from sdoml_dist.store.catalog_schema import CatalogInfo


def test_table_of_the_paper() -> None:
    rows = compression_rows()
    assert [round(row.latent_bytes / MIB, 1) for row in rows] == [310.1, 620.2, 1240.5, 2481.0]
    assert [f"{row.percent:.2f}" for row in rows] == ["0.19", "0.33", "0.61", "1.17"]
    assert {row.original_bytes / MIB for row in rows} == {238174.5}
    # With the sizes that the paper prints for its networks the percentages are the same.
    printed = {256: 131.1, 512: 155.3, 1024: 203.3, 2048: 299.3}
    again = compression_rows(model_bytes={latent: int(size * MIB) for latent, size in printed.items()})
    assert [f"{row.percent:.2f}" for row in again] == ["0.19", "0.33", "0.61", "1.17"]


def test_size_of_the_network() -> None:
    assert [sigma_vae_parameters(latent) for latent in PAPER_LATENTS] == [
        34_390_669,
        40_682_637,
        53_266_573,
        78_434_445,
    ]
    # 4 bytes each, 2 x 5504 running moments of 4 bytes and 15 counters of 8: within 0.1 of the paper but for its first row.
    assert sigma_vae_bytes(256) == 4 * (34_390_669 + 11_008) + 15 * 8
    assert [round(sigma_vae_bytes(latent) / MIB, 2) for latent in PAPER_LATENTS] == [131.23, 155.23, 203.24, 299.25]
    # Counted from the network itself: all tensors of its state.
    assert sigma_vae_bytes(16, channels=2, size=256) == 114_185_236
    assert sigma_vae_bytes(7, channels=9, size=512) == 113_461_496
    assert sigma_vae_bytes(1, channels=1) == 112_447_112
    with pytest.raises(UsageError, match="100 pixels"):
        sigma_vae_bytes(256, size=100)


def test_any_dataset() -> None:
    (row,) = compression_rows([10], samples=100, channels=2, size=64, model_bytes={10: 4000})
    # (4000 + 100 x 10 x 4) of 100 x 2 x 64 x 64 x 4 bytes.
    assert row.percent == pytest.approx(100 * 8000 / 3_276_800)
    assert json.loads(json.dumps(row.as_data())) == {
        "latent": 10, "model_bytes": 4000, "latent_bytes": 4000, "original_bytes": 3_276_800, "percent": row.percent,
    }  # fmt: skip
    with pytest.raises(UsageError, match="at least 1"):
        compression_rows(samples=0)
    with pytest.raises(UsageError, match="no network of latent size 256"):
        compression_rows([256], model_bytes={512: 1})


def test_text() -> None:
    lines = compression_text(compression_rows([256, 2048])).splitlines()
    assert lines[0].split() == ["latent", "model", "MiB", "latents", "MiB", "%", "of", "original"]
    assert lines[1].split() == ["256", "131.2", "310.1", "0.19"]
    assert lines[2].split() == ["2048", "299.2", "2,481.0", "1.17"]
    assert lines[3] == "original  238,174.5 MiB as float32"
    assert len(compression_text([]).splitlines()) == 1


class _Opened:
    """What `measured` needs of a product."""

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    info = CatalogInfo(
        dataset=str(tmp_path / "dataset"), snapshot="SNAP", channels=("171A",), checkpoint="c", model="m", latent=4
    )
    writer = CatalogWriter(str(tmp_path / "catalog"), info)
    writer.begin()
    times = np.datetime64("2011-02-15", "ns") + np.arange(5) * np.timedelta64(720, "s")
    writer.write("a", times, np.ones((5, 4), np.float32), status=np.array([1, 10, 1, 1, 1]))
    (tmp_path / "dataset" / "icechunk" / "chunks").mkdir(parents=True)
    (tmp_path / "dataset" / "icechunk" / "chunks" / "a").write_bytes(b"x" * 3000)
    (tmp_path / "dataset" / "icechunk" / "repo").write_bytes(b"x" * 200)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    return str(tmp_path / "catalog")


def test_measured(
    catalog: str, tmp_path: Path, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 slots of 1 channel of 64 x 64 pixels are 65 536 bytes; side files of the dataset and the missing slot do not count."""
    asked = []

    def products(store: Any, version: str, *, channels: Any) -> list[_Opened]:
        asked.append((store.url, version, tuple(channels)))
        return [_Opened(make_recipe())]

    monkeypatch.setattr(compression, "open_products", products)
    found = measured(catalog, tmp_path / "model.safetensors")
    assert asked == [(str(tmp_path / "dataset"), "SNAP", ("171A",))]
    size = sum(path.stat().st_size for path in Path(catalog).rglob("*.parquet"))
    assert (found.samples, found.channels, found.size) == (4, 1, 64)
    assert (found.model_bytes, found.latent_bytes, found.raw_bytes, found.stored_bytes) == (1000, size, 65_536, 3200)
    assert found.percent_of_raw == pytest.approx(100 * (1000 + size) / 65_536)
    assert json.loads(json.dumps(found.as_data()))["percent_of_stored"] == pytest.approx(100 * (1000 + size) / 3200)
    assert "4 x 1 x 64 x 64, float32" in found.text()
    # A folder of a checkpoint, another place of the dataset, smaller images.
    other = measured(catalog, tmp_path, dataset=str(tmp_path / "moved"), size=32)
    assert other.raw_bytes == 16_384
    assert other.stored_bytes == 0
    assert math.isnan(other.percent_of_stored)
    assert other.as_data()["percent_of_stored"] is None
    assert asked[1][0] == str(tmp_path / "moved")
    with pytest.raises(UsageError, match="no weights"):
        measured(catalog, tmp_path / "none")


def test_measured_needs_the_dataset(catalog: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        measured(catalog, tmp_path, dataset=str(tmp_path / "nowhere"))
