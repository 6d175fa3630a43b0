"""How well a sigma-VAE reconstructs: Tables 3 to 6 of Brown et al. 2022 for a trained network, with figures beside.

The paper has pixel correlation, the shares of pixels within 50 and 10 % (ppe50, ppe10) and the RMSE in original units, for
latent vectors of 256, 512, 1024 and 2048 numbers; of all samples, which were those of the training. Here they are of one
part of the samples, by default one that the network has not seen. Beside the network stands the best linear code of as
many numbers, principal components of the training part, and the relative flux difference, which the paper has not.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.models.pca import PrincipalComponents
from sdoml_dist.pipelines.encode import Trained, encoding_samples
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.suns import write_suns
from sdoml_dist.solar.image_metrics import METRICS, MetricMeans, image_metrics
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.order import chosen
from sdoml_dist.training.samples import Samples

COLUMNS = ("correlation", "ppe50", "ppe10", "rmse")
"""Columns of the paper's tables, in their order."""
PUBLISHED_LATENTS = (256, 512, 1024, 2048)
"""Latent sizes of Tables 3, 4, 5 and 6."""
# Brown et al. 2022, Tables 3 to 6: correlation, ppe50, ppe10, RMSE of each channel, for the four latent sizes.
_FIGURES = {
    "94A": ".92 .98 .51 3.28|.92 .98 .51 3.26|.92 .98 .52 3.25|.92 .98 .52 3.24",
    "131A": ".94 .97 .52 10.46|.94 .97 .52 10.26|.94 .97 .53 10.28|.94 .97 .53 10.22",
    "171A": ".94 .94 .48 209.46|.94 .95 .48 203.55|.94 .95 .49 203.03|.94 .95 .48 201.71",
    "193A": ".96 .96 .54 228.97|.96 .96 .55 218.26|.96 .96 .55 213.30|.96 .96 .55 213.18",
    "211A": ".96 .96 .55 95.08|.96 .97 .56 91.16|.96 .96 .57 89.77|.96 .97 .56 89.71",
    "304A": ".92 .95 .46 74.87|.92 .95 .46 70.53|.92 .95 .47 70.51|.92 .95 .47 70.84",
    "335A": ".95 .98 .54 8.26|.96 .98 .54 7.88|.96 .98 .55 7.85|.96 .98 .55 7.91",
    "1600A": ".99 .99 .80 22.33|.99 .99 .80 22.25|.99 .99 .80 22.18|.99 .99 .80 21.67",
    "1700A": ".99 .98 .86 230.50|.99 .98 .87 230.76|.99 .98 .86 234.50|.99 .98 .87 220.28",
    "Bx": ".52 .05 .01 17.75|.52 .05 .01 17.66|.53 .05 .01 17.59|.52 .05 .01 17.62",
    "By": ".36 .04 .01 16.61|.36 .04 .01 16.59|.37 .04 .01 16.56|.37 .04 .01 16.58",
    "Bz": ".84 .08 .02 5.39|.84 .08 .02 5.29|.84 .08 .02 5.20|.84 .08 .02 5.24",
}
PUBLISHED: dict[int, dict[str, dict[str, float]]] = {
    latent: {
        channel: dict(zip(COLUMNS, map(float, text.split("|")[place].split()), strict=True))
        for channel, text in _FIGURES.items()
    }
    for place, latent in enumerate(PUBLISHED_LATENTS)
}
"""Published figures by latent size, channel and metric; SDOML v1, 128 pixels."""
_PCA_SAMPLES = 512
_PICTURED, _DRAWN, _BATCH = 3, 3, 16


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a network and of principal components, on the same images.

    Attributes
    ----------
    latent : int
        Numbers per image.
    components : int
        Principal components; fewer where the training part is too small for as many.
    channels : tuple of str
        Names.
    network, linear : MetricMeans
        Of both.
    about : dict
        What was evaluated on what, as plain data.
    """

    latent: int
    components: int
    channels: tuple[str, ...]
    network: MetricMeans
    linear: MetricMeans
    about: dict[str, Any]

    @property
    def published_latent(self) -> int:
        """The latent size of the paper that is nearest."""
        return min(PUBLISHED_LATENTS, key=lambda latent: abs(np.log(latent / self.latent)))

    def methods(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return figures by method, channel and metric."""
        found = {
            f"published, {self.published_latent}": {
                channel: PUBLISHED[self.published_latent].get(channel, {}) for channel in self.channels
            }
        }
        for name, means in ((f"sigma-VAE, {self.latent}", self.network), (f"PCA, {self.components}", self.linear)):
            values = means.means()
            found[name] = {
                channel: {metric: float(values[metric][place]) for metric in METRICS}
                for place, channel in enumerate(self.channels)
            }
        return found

    def to_csv(self) -> str:
        """Return every figure in a row of its own."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["channel", "method", "metric", "value", "images"])
        counts = self.network.counts()
        for method, by_channel in self.methods().items():
            for place, channel in enumerate(self.channels):
                for metric, value in by_channel[channel].items():
                    images = "" if method.startswith("published") else int(counts[metric][place])
                    writer.writerow([channel, method, metric, repr(value), images])
        return out.getvalue()

    def to_markdown(self) -> str:
        """Return the tables: one per metric and method side by side, in the order of the paper's columns."""
        methods = self.methods()
        names = list(methods)
        lines = [f"# Reconstruction by {self.latent} numbers", "", *self._told(), ""]
        lines += ["| channel | " + " | ".join(f"{column} {name}" for column in COLUMNS for name in names) + " |"]
        lines += ["| --- |" + " ---: |" * (len(COLUMNS) * len(names))]
        for channel in self.channels:
            cells = [_cell(column, methods[name][channel].get(column)) for column in COLUMNS for name in names]
            lines.append(f"| {channel} | " + " | ".join(cells) + " |")
        lines += ["", "Relative flux difference (sum of generated over sum of real pixels, minus 1):", ""]
        lines += ["| channel | " + " | ".join(names[1:]) + " |", "| --- |" + " ---: |" * len(names[1:])]
        for channel in self.channels:
            cells = [f"{methods[name][channel]['flux_difference']:+.4f}" for name in names[1:]]
            lines.append(f"| {channel} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def to_text(self) -> str:
        """Return the tables for a terminal: a block of rows for each channel."""
        methods = self.methods()
        width = max(map(len, methods))
        lines = [
            *self._told(),
            f"{'':<6} {'':<{width}}  {'corr':>6} {'ppe50':>6} {'ppe10':>6} {'RMSE':>9}  {'flux':>8}",
        ]
        for channel in self.channels:
            for name, by_channel in methods.items():
                row = by_channel[channel]
                cells = [_cell(column, row.get(column)) for column in COLUMNS]
                flux = f"{row['flux_difference']:+8.4f}" if "flux_difference" in row else ""
                lines.append(
                    f"{channel:<6} {name:<{width}}  {cells[0]:>6} {cells[1]:>6} {cells[2]:>6} {cells[3]:>9}  {flux:>8}".rstrip()
                )
        return "\n".join(lines) + "\n"

    def _told(self) -> list[str]:
        about = self.about
        told = [
            f"{about['images']} images of part {about['part']!r} of {about['dataset']} ({about['snapshot']}), "
            f"{about['size']} pixels, weights {about['checkpoint']} after {about['step']} steps.",
            f"Published: Brown et al. 2022, {self.published_latent} numbers, SDOML v1, evaluated on the samples of the training.",
        ]
        if self.components < self.latent:
            told.append(f"The training part gives {self.components} principal components only.")
        return told


def _cell(metric: str, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return ""
    return f"{value:.2f}" if metric == "rmse" else f"{value:.3f}"


def fit_components(samples: Samples, trained: Trained, number: int = _PCA_SAMPLES) -> PrincipalComponents:
    """Return principal components of network inputs of the training part, as many as the network's latent numbers.

    Parameters
    ----------
    samples : Samples
        All samples.
    trained : Trained
        The network.
    number : int
        Training images that are used at most; at least twice the latent size are. They are held in memory.
    """
    training = samples.part("train")
    latent = trained.config.network.latent
    subset = training.take(chosen(training.times, max(number, 2 * latent), 0))
    loader = Loader(subset, trained.transforms, trained.config.network.size, threads=trained.config.data.threads)
    size = trained.config.network.size
    images = np.empty((len(subset), len(samples.channels), size, size), np.float32)
    done = 0
    for batch in loader.validation(_BATCH):
        inputs = batch["inputs"].numpy()
        images[done : done + len(inputs)] = inputs
        done += len(inputs)
    return PrincipalComponents.fit(images, latent)


def evaluate_samples(
    trained: Trained, samples: Samples, part: str, most: int | None = None
) -> tuple[Evaluation, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Compare reconstructions with the images of a part.

    Parameters
    ----------
    trained : Trained
        The network.
    samples : Samples
        All samples of the dataset, parted as in its training.
    part : str
        Which are reconstructed.
    most : int, optional
        A random subset of so many.

    Returns
    -------
    evaluation : Evaluation
        Metrics.
    pictured : list of (str, numpy.ndarray, numpy.ndarray)
        Times, images and reconstructions of some, shape (channels, y, x).
    """
    components = fit_components(samples, trained)
    these = samples.part(part)
    if most is not None:
        these = these.take(chosen(these.times, most, 0))
    network, linear = MetricMeans(these.channels), MetricMeans(these.channels)
    size = trained.config.network.size
    loader = Loader(these, trained.transforms, size, physical=True, threads=trained.config.data.threads)
    shown = set(np.linspace(0, len(these) - 1, min(_PICTURED, len(these))).round().astype(int).tolist())
    pictured, done = [], 0
    for batch in loader.validation(_BATCH):
        real = batch["physical"].numpy()
        made = trained.decode(trained.encode(batch["inputs"])[0])
        other = trained.transforms.to_physical(components.reconstruct(batch["inputs"].numpy()).astype(np.float64))
        network.add(image_metrics(real, made))
        linear.add(image_metrics(real, other))
        for row in range(len(real)):
            if done + row in shown:
                stamp = format_fits_time(these.times[done + row], 0).replace("T", "\n")
                pictured.append((stamp, real[row].copy(), made[row].copy()))
        done += len(real)
    about = {
        "dataset": these.store.url, "snapshot": these.snapshot, "part": part, "images": len(these), "size": size,
        "checkpoint": trained.hash, "step": trained.about["step"],
    }  # fmt: skip
    evaluation = Evaluation(
        trained.config.network.latent, len(components.components), these.channels, network, linear, about
    )
    return evaluation, pictured


def evaluate(
    checkpoint: Path, output: Path, *, store: Store | None = None, version: str | None = None, part: str = "test",
    most: int | None = None,
) -> str:  # fmt: skip
    """Evaluate a checkpoint of the experiment: tables as CSV and markdown, reconstructions and drawn suns as PNG.

    Parameters
    ----------
    checkpoint : pathlib.Path
        Its folder.
    output : pathlib.Path
        Where files go.
    store, version : optional
        Another dataset, and its version; by default that of the training.
    part : str
        Which samples: ``train``, ``validation`` or ``test`` of the training's split.
    most : int, optional
        A random subset of so many.

    Returns
    -------
    str
        The tables for a terminal, and the names of the files.

    Raises
    ------
    UsageError
        If the part has no samples.
    """
    trained = Trained(checkpoint)
    if store is None:
        store, version = trained.config.data.store, version or trained.about["prepared"]["snapshot"]
    samples, _ = encoding_samples(trained, store, version)
    if part not in samples.counts():
        there = ", ".join(f"{name} {number}" for name, number in samples.counts().items() if name)
        raise UsageError(f"No sample is in part {part!r}.", f"There are: {there}.", "Choose another --part.")
    evaluation, pictured = evaluate_samples(trained, samples, part, most)
    rows = []
    for stamp, real, made in pictured:
        rows += [(f"{stamp}\nobserved", real), (f"{stamp}\nreconstructed", made)]
    drawn = trained.draw(_DRAWN)
    title = f"sigma-VAE, {evaluation.latent} numbers, {evaluation.about['step']} steps; part {part}"
    for name, content in (("table.csv", evaluation.to_csv()), ("table.md", evaluation.to_markdown())):
        write_atomic(output / name, content.encode())
    channels = evaluation.channels
    write_suns(output / "reconstructions.png", rows, channels, title, reference=range(0, len(rows), 2))
    reals = [(f"{stamp}\nobserved", real) for stamp, real, _ in pictured]
    prior = [(f"drawn\nfrom the prior\nno. {number}", images) for number, images in enumerate(drawn, 1)]
    write_suns(output / "drawn.png", [*reals, *prior], channels, title, reference=range(len(reals)))
    files = ("table.csv", "table.md", "reconstructions.png", "drawn.png")
    return evaluation.to_text() + "\n".join(str(output / name) for name in files) + "\n"
