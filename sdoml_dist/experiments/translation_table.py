"""Tables of image translation: files for people and programs, and what evaluating any of these networks has in common."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.translation import Translation
from sdoml_dist.experiments.translation_pairs import Pairs
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.translation import sample_picture
from sdoml_dist.training import checkpoint as checkpoints
from sdoml_dist.training.experiment import Batch

BASELINE_IMAGES = 256
"""Training images that baselines are fitted to, at most."""
_PICTURED = 4


@dataclass(frozen=True)
class Table:
    """Scores in the published layout.

    Attributes
    ----------
    title : str
        What was evaluated on what.
    columns : tuple of str
        Names of the scores.
    rows : dict
        Scores by name of the row, NaN where there is none.
    counts : dict
        Images behind a row.
    about : dict
        Where it comes from, as plain data.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]
    counts: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def _cells(self) -> list[list[str]]:
        lines = [["", *self.columns, "images"]]
        for name, values in self.rows.items():
            cells = [f"{value:.3f}" if np.isfinite(value) else "-" for value in values]
            lines.append([name, *cells, str(self.counts.get(name, ""))])
        return lines

    def to_text(self) -> str:
        """Return the table for a terminal."""
        lines = self._cells()
        widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
        told = ["  ".join(f"{c:<{w}}" if k == 0 else f"{c:>{w}}" for k, (c, w) in enumerate(zip(line, widths, strict=True)))
                for line in lines]  # fmt: skip
        return "\n".join([self.title, *told])

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        lines = self._cells()
        rule = ["---", *["---:"] * (len(lines[0]) - 1)]
        rows = ["| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]]
        return "\n".join([f"# {self.title}", "", *rows, ""])

    def to_csv(self) -> str:
        """Return every figure in a row of its own."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["row", "score", "value", "images"])
        for name, values in self.rows.items():
            for score, value in zip(self.columns, values, strict=True):
                writer.writerow([name, score, repr(float(value)), self.counts.get(name, "")])
        return out.getvalue()

    def write(self, folder: Path) -> str:
        """Write table.csv, table.md and about.json; return the table for a terminal with the names of the files."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "table.csv", self.to_csv().encode())
        write_atomic(folder / "table.md", self.to_markdown().encode())
        write_atomic(folder / "about.json", json.dumps(self.about, indent=1).encode())
        return f"{self.to_text()}\n{folder}: table.csv, table.md, about.json, samples.png"


@dataclass(frozen=True)
class Trained:
    """A network to be evaluated or applied.

    Attributes
    ----------
    experiment : Translation
        Channels, values and samples.
    network : torch.nn.Module
        The generator, with averaged weights where these were kept.
    place : pathlib.Path
        The checkpoint.
    """

    experiment: Translation
    network: torch.nn.Module
    place: Path

    @classmethod
    def load(
        cls, kind: type[Translation], place: Path, store: Store | None = None, version: str | None = None
    ) -> Trained:  # fmt: skip
        """Load a checkpoint, to be used on the dataset that it was trained on or on another one.

        Parameters
        ----------
        kind : type
            Its experiment.
        place : pathlib.Path
            The checkpoint.
        store, version : optional
            Another dataset, and its version.

        Raises
        ------
        UsageError
            If it is no checkpoint, or is of another network.
        """
        about = checkpoints.about(place)
        config, prepared = about["config"], dict(about["prepared"])
        if store is not None or version is not None:
            data = dict(config["data"]) | {"version": version, "size": config["data"]["size"] or prepared["pixels"]}
            if store is not None:
                data["store"] = store.model_dump(mode="json")
            config = config | {"data": data}
            prepared |= kind.prepare(kind.Config.model_validate(config), place)
        experiment = kind({"config": config, "prepared": prepared})
        network = experiment.models()["generator"]
        averaged = (place / f"{checkpoints.EMA}.safetensors").is_file()
        checkpoints.load_model(place, network, checkpoints.EMA if averaged else "generator")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(experiment, network.to(device).eval(), place)

    def part(self, part: str) -> Pairs:
        """Return the samples of a part.

        Raises
        ------
        UsageError
            If it has none.
        """
        counts = self.experiment.pairs.samples.counts()
        if part not in counts:
            there = ", ".join(f"{name} {number}" for name, number in counts.items() if name)
            raise UsageError(f"No sample is in part {part!r}.", f"There are: {there}.", "Choose another --part.")
        return self.experiment.pairs.part(part)

    def made(self, batch: Batch) -> np.ndarray:
        """Return what the generator makes of a micro-batch, physical."""
        return self.experiment.generate(self.network, batch["inputs"], batch["index"].tolist())

    def true(self, batch: Batch) -> np.ndarray:
        """Return the true images in physical units within the network's limits, NaN where there are none."""
        target = batch["target"].numpy()
        return np.where(batch["mask"].numpy(), self.experiment.decode(target), np.asarray(np.nan, target.dtype))

    def picture(self, pairs: Pairs, folder: Path) -> None:
        """Draw some samples into samples.png."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = evenly(pairs, _PICTURED)
        batch = pairs.read(rows)
        sample_picture(
            folder / "samples.png", batch["inputs"].numpy(), self.true(batch), self.made(batch),
            self.experiment.input_names(), self.experiment.output_names(), pairs.samples.times[rows],
        )  # fmt: skip

    def about(self, part: str) -> dict[str, Any]:
        """Return what was evaluated on what."""
        samples = self.experiment.pairs.samples
        return {
            "checkpoint": str(self.place), "step": checkpoints.about(self.place)["step"], "part": part,
            "dataset": samples.store.url, "snapshot": samples.snapshot,
        }  # fmt: skip


def evenly(pairs: Pairs, most: int | None) -> np.ndarray:
    """Return rows evenly over the time, all of them by default."""
    count = len(pairs.samples)
    return np.arange(count) if most is None else np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def mean_of(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the mean along the first axis of what is finite, NaN where nothing is."""
    stacked = np.asarray(values, np.float64)
    valid = np.isfinite(stacked)
    count = valid.sum(axis=0)
    means: np.ndarray = np.where(count > 0, np.where(valid, stacked, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return means
