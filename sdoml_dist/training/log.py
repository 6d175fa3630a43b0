"""The log of a training: lines of JSON as it goes on, a Parquet table, TensorBoard's files and a figure of the losses."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

from sdoml_dist.atomic import write_atomic

logger = logging.getLogger("sdoml")

LOG, TABLE, FIGURE = "metrics.jsonl", "metrics.parquet", "losses.png"
_TOLD = ("loss", "validation_loss", "learning_rate", "samples_per_s", "data_wait")


class Log:
    """Metrics of a training, a line of JSON per step that is told, beside TensorBoard's files.

    Parameters
    ----------
    folder : pathlib.Path
        Where.
    step : int
        Step that is gone on from; lines of later steps, of a run that lost them, are taken out.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / LOG
        kept = [line for line in read_log(folder) if line["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, flush_secs=30)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Add a line."""
        self._file.write(json.dumps({"step": step, "unix_s": time.time()} | metrics) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def summarise(self) -> None:
        """Make all lines so far safe, and write the table and the figure of them."""
        import pandas as pd

        os.fsync(self._file.fileno())
        self._board.flush()
        lines = read_log(self.folder)
        if not lines:
            return
        buffer = io.BytesIO()
        pd.DataFrame(lines).to_parquet(buffer, index=False)
        write_atomic(self.folder / TABLE, buffer.getvalue())
        write_atomic(self.folder / FIGURE, losses_figure(lines))

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last one that was cut off is left out."""
    path = Path(folder) / LOG
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def losses_figure(lines: list[dict[str, Any]]) -> bytes:
    """Return a PNG of the losses over the steps.

    Parameters
    ----------
    lines : list of dict
        Of a log.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    names = sorted({name for line in lines for name in line if name == "loss" or name.endswith("_loss")})
    values: list[float] = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
        steps, losses = [step for step, _ in points], [value for _, value in points]
        checked = name.startswith("validation")
        axes.plot(steps, losses, linewidth=1.6 if checked else 0.9, marker="o" if checked else "", markersize=3,
                  label=name.replace("_", " "))  # fmt: skip
        values += losses
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("Step")
    axes.set_ylabel("Loss")
    axes.grid(linewidth=0.4, alpha=0.6)
    if names:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


class Follower:
    """Tell what a worker, perhaps on another machine, adds to the log.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the run.
    steps : int
        Steps of the whole training.
    every_s : float
        Seconds between lines that are told.
    """

    def __init__(self, folder: Path, steps: int, every_s: float = 10.0) -> None:
        self.path, self.steps, self.every_s = folder / LOG, steps, every_s
        self._seen = self.path.stat().st_size if self.path.is_file() else 0
        self._last = 0.0

    def look(self) -> None:
        """Tell the newest line, if there is a new one and the last one was told long enough ago."""
        now = time.monotonic()
        if now - self._last < self.every_s or not self.path.is_file():
            return
        size = self.path.stat().st_size
        if size == self._seen:
            return
        self._last, self._seen = now, size
        lines = read_log(self.path.parent)
        if lines:
            line = lines[-1]
            named = [name for name in line if name in _TOLD or name.endswith("_loss")]
            logger.info(
                "step %d of %d: %s", line["step"], self.steps, ", ".join(f"{name} {line[name]:.4g}" for name in named)
            )
