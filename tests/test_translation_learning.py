"""Networks that learn on simulated suns: AIA images from magnetograms, and magnetograms and images from drawings.

Months are held out, as in the published splits. The networks are small and see 64 pixels and 156 suns for a minute or two; the
margins over the baselines that they must keep are somewhat less than those measured (docs/translation.md).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdoml_dist.experiments import galileo
from sdoml_dist.experiments.galileo import Galileo
from sdoml_dist.experiments.hmi_to_aia import HmiToAia, channel_table
from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_table import Trained
from sdoml_dist.training.config import Optimisation, Watching
from sdoml_dist.training.loop import Loop, Worker
from tests.translation_suns import SIZE, MemoryPairs, rendered_channels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TIMES = np.datetime64("2011-01-02T00:00", "ns") + np.arange(0, 1456, 7) * np.timedelta64(86400, "s")
CHANNELS = ("Bx", "By", "Bz", "M_720s", "Ic_720s", "304A", "171A")
MONTHS = {"train": [1, 2, 3, 4, 5, 6, 7, 11, 12], "validation": [8], "test": [9, 10]}


@pytest.fixture(scope="module")
def suns() -> np.ndarray:
    """Return suns of four years, one a week, shape (suns, CHANNELS, SIZE, SIZE)."""
    return rendered_channels(TIMES, CHANNELS)


def of_memory(kind: type[Translation], suns: np.ndarray) -> type[Translation]:
    """Return an experiment whose samples are in memory."""

    class Learned(kind):  # type: ignore[misc, valid-type]
        @property
        def pairs(self) -> Any:
            chosen = [CHANNELS.index(name) for name in self.sampled(self.config)[0]]
            return MemoryPairs(self, np.ascontiguousarray(suns[:, chosen]), TIMES)

    return Learned


def train(
    kind: type[Translation], place: Path, name: str, data: dict[str, Any], network: dict[str, Any], steps: int
) -> None:
    """Train, and keep the averaged weights of the last step."""
    torch.set_num_threads(1)
    training = {
        "steps": steps, "global_batch": 4, "micro_batch": 4, "learning_rate": 0.002, "betas": [0.5, 0.999],
        "schedule": "cosine", "ema": 0.98,
    }  # fmt: skip
    settings = {
        "config": {
            "experiment": name,
            "data": {"store": {"url": "rendered"}, "size": SIZE, "split": {"kind": "months", "months": MONTHS}} | data,
            "network": {"narrowing": 4, "shift": 2} | network,
            "training": training,
        },
        "prepared": {"snapshot": "rendered", "pixels": SIZE},
    }  # fmt: skip
    loop = Loop(kind(settings), Optimisation.model_validate(training), Watching(validate_every=steps), Worker())
    loop.run(lambda progress: None)
    place.mkdir()
    loop.save(place, {})


def test_images_of_months_that_were_not_seen_are_better_than_a_function_of_each_pixels_field(
    suns: np.ndarray, tmp_path: Path
) -> None:
    kind, place = of_memory(HmiToAia, suns), tmp_path / "checkpoint_1"
    data = {"field": ["Bx", "By", "Bz"], "channels": ["304A", "171A"], "limit_gauss": 500}
    train(kind, place, "hmi-to-aia", data, {"model": "A", "shift": 1}, steps=1000)
    learned = Trained.load(kind, place)
    table = channel_table(learned, learned.part("test"), "test")
    learned.picture(learned.part("test"), tmp_path)
    print(table.to_text())
    # Measured: correlations 0.043 and 0.084 better than the better baseline, and 0.055 and 0.060 more pixels within 50 %.
    for channel, margin in (("304A", 0.02), ("171A", 0.05)):
        network = table.rows[f"{channel}, network"]
        assert table.counts[f"{channel}, network"] == 35
        for who in ("mean image and |B|", "lookup by |B|"):
            baseline = table.rows[f"{channel}, {who}"]
            assert network[0] > baseline[0] + margin, (channel, who)
            assert network[3] > baseline[3] + 0.03, (channel, who)


# Weights of the mean absolute difference and of the correlation. The difference alone is smallest for an empty Sun: nearly all
# of it is quiet, and a spot's surroundings are known within some pixels only.
@pytest.mark.parametrize(
    ("target", "judged", "l1", "margin"), [("M_720s", 0, 1, 0.15), ("M_720s", 0.2, 1, 0.15), ("Ic_720s", 0, 20, 0.25)]
)
def test_drawings_of_months_that_were_not_seen_show_where_spots_and_polarities_are(
    suns: np.ndarray, target: str, judged: float, l1: float, margin: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, place = of_memory(Galileo, suns), tmp_path / "checkpoint_1"
    train(kind, place, "galileo", {"target": target}, {"judged": judged, "l1": l1, "correlation": 5}, steps=600)
    monkeypatch.setattr(galileo, "Galileo", kind)
    print(galileo.evaluate(place, tmp_path))
    with (tmp_path / "table.csv").open() as file:
        found = {row["row"]: float(row["value"]) for row in csv.DictReader(file) if row["score"] == "CC"}
    # Measured: 0.25 over 0.00, and 0.64 over 0.26, which is the limb's.
    assert found["network"] > found["mean image"] + margin
