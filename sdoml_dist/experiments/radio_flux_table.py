"""Protocol and result of forecasts of the radio flux, as text, data and figure; :mod:`sdoml_dist.experiments.radio_flux`.

The figure has the style of :mod:`sdoml_dist.report.emergence_charts`; methods differ in mark and stroke, not in colour
alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.report.emergence_charts import DARK, LIGHT, Scheme, axes_at, new_figure, png

ROTATION_DAYS = 27
"""Synodic rotation of the Sun as recurrence indices have it (Bartels 1934)."""
TREES = (250, 500, 750, 1000, 1500, 2000)
"""Numbers of trees that the paper chose from."""
PERSISTENCE, RECURRENCE, REGRESSION = "persistence", "27-day recurrence", "linear regression"
"""Names of the baselines."""
PARTS = ("train", "validation", "test")
"""Parts of the days."""
REASONS = ("no features", "no flux today", "no flux on target day", "no flux history", "gap")
"""Why days are left out; the first that holds is counted."""
_LEAST_SKILL, _IN_ONE_ROW, _MOST_TICKS = -60, 5, 10


@dataclass(frozen=True)
class ForecastConfig:
    """Protocol of the forecast; the defaults are those published, as far as the paper says them."""

    first_day: str = "2010-06-01"
    """First day of features."""
    last_day: str = "2018-12-31"
    """Last day of features; targets may be later."""
    held_out_years: tuple[int, ...] = tuple(range(2011, 2019))
    """Years of validation and test months."""
    validation_month: int = 3
    """Month of validation days."""
    test_month: int = 1
    """Month of test days."""
    horizons: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    """Days ahead, 1 to 27; those of the paper are in a figure only."""
    gap_days: int | None = None
    """Days between what training and what held-out days use, flux history and targets included; None: published."""
    trees: tuple[int, ...] = TREES
    """Numbers of trees to choose from."""
    flux_history: int = 0
    """Last daily values of the flux, today's first, that are added to the features; the paper has none."""
    regression_history: int = 5
    """Last daily values that the linear regression has."""
    draws: int = 2000
    """Draws of test months for intervals."""
    confidence: float = 0.95
    """Share of draws within an interval."""
    random_state: int = 0
    """Seed of forests and draws."""
    n_jobs: int = 1
    """Threads of scikit-learn; results do not depend on it."""

    def __post_init__(self) -> None:
        months = {self.validation_month, self.test_month}
        faults = {
            "horizons must be 1 to 27 days, each once": not self.horizons
            or len(set(self.horizons)) < len(self.horizons)
            or not all(1 <= horizon <= ROTATION_DAYS for horizon in self.horizons),
            "validation_month and test_month must be two months, 1 to 12": len(months) < 2 or not months <= {*range(1, 13)},
            "gap_days must not be negative": self.gap_days is not None and self.gap_days < 0,
            "trees must be positive numbers": not self.trees or min(self.trees) < 1,
            "flux_history must not be negative, regression_history positive": self.flux_history < 0
            or self.regression_history < 1,
            "draws must be positive and confidence between 0 and 1": self.draws < 1 or not 0 < self.confidence < 1,
        }  # fmt: skip
        for fault, found in faults.items():
            if found:
                raise UsageError(f"The forecast cannot be made: {fault}.")

    @property
    def history(self) -> int:
        """Return the daily values of flux that go into a forecast, today's included."""
        return max(self.flux_history, self.regression_history)

    def calendar(self) -> np.ndarray:
        """Return all days of the protocol, datetime64[D]."""
        return np.arange(np.datetime64(self.first_day, "D"), np.datetime64(self.last_day, "D") + 1)


@dataclass(frozen=True)
class Score:
    """Errors of a method at a horizon, on test days; sfu.

    Attributes
    ----------
    method : str
        Its name.
    horizon : int
        Days ahead.
    days : int
        Number of test days.
    rmse, mae : float
        Root of the mean squared error, and mean absolute error.
    rmse_interval : tuple of float
        Interval of the RMSE over draws of test months.
    skill : float
        1 - RMSE / RMSE of persistence.
    skill_interval : tuple of float
        Its interval, over the same draws for both.
    trees : int or None
        Trees chosen on validation days, None for baselines.
    validation_rmse : float
        RMSE on validation days.
    """

    method: str
    horizon: int
    days: int
    rmse: float
    mae: float
    rmse_interval: tuple[float, float]
    skill: float
    skill_interval: tuple[float, float]
    trees: int | None
    validation_rmse: float


@dataclass(frozen=True)
class Table:
    """Errors of all methods at all horizons.

    Attributes
    ----------
    quantity : str
        Flux that was forecast.
    config : ForecastConfig
        Protocol.
    features : dict
        Number of features of each set.
    scores : tuple of Score
        All methods at all horizons.
    counts : dict
        For each horizon and part of the days: ``planned``, ``used`` and numbers left out by reason, which add up.
    blocks : dict
        Test months with days, for each horizon.
    library : str
        Version of scikit-learn.
    """

    quantity: str
    config: ForecastConfig
    features: dict[str, int]
    scores: tuple[Score, ...]
    counts: dict[int, dict[str, dict[str, int]]]
    blocks: dict[int, int]
    library: str

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods, baselines first."""
        return tuple(dict.fromkeys(score.method for score in self.scores))

    def of(self, method: str) -> list[Score]:
        """Return the scores of a method, by horizon."""
        return sorted((score for score in self.scores if score.method == method), key=lambda score: score.horizon)

    def to_data(self) -> dict[str, Any]:
        """Return all as plain data for JSON; numbers that do not exist are None."""
        data: dict[str, Any] = _plain({field.name: getattr(self, field.name) for field in fields(self)})
        return data | {"unit": "sfu", "split": self.split()}

    def split(self) -> str:
        """Say how training days are kept from held-out ones."""
        if self.config.gap_days is None:
            return "published, training forecasts reach into held-out months at their borders"
        apart = f", and are more than {self.config.gap_days} days away" if self.config.gap_days else ""
        return f"training forecasts share no day with held-out ones{apart}"

    def to_text(self) -> str:
        """Return the table as text."""
        width = max(map(len, self.methods))
        share = f"{self.config.confidence:.0%}"
        lines = [f"{self.quantity} forecast, RMSE and MAE in sfu; skill 1 - RMSE / RMSE of persistence", self.split()]
        lines += [f"features of {name}: {number:,}" for name, number in self.features.items()]
        lines.append(f"intervals: {share} of {self.config.draws:,} draws of whole test months")
        for horizon in self.config.horizons:
            used = {part: self.counts[horizon][part]["used"] for part in PARTS}
            days = ", ".join(f"{number:,} {part}" for part, number in used.items())
            left = {r: sum(self.counts[horizon][part].get(r, 0) for part in PARTS) for r in REASONS}
            out = ", ".join(f"{number:,} {reason}" for reason, number in left.items() if number) or "none"
            lines.append(f"\n{horizon} d ahead   days: {days} in {self.blocks[horizon]} months; left out: {out}")
            lines.append(f"{'':<{width}}  {'RMSE':>7} {'MAE':>7}  {'skill':>7}  {share + ' interval':<18} {'trees':>5}")
            for score in (s for s in self.scores if s.horizon == horizon):
                low, high = score.skill_interval
                told = "" if score.method == PERSISTENCE else f"{low:+.3f} to {high:+.3f}"
                lines.append(
                    f"{score.method:<{width}}  {score.rmse:7.2f} {score.mae:7.2f}  {score.skill:+7.3f}  {told:<18} "
                    f"{score.trees or '':>5}"
                )
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def write(self, folder: str | Path) -> tuple[Path, ...]:
        """Write JSON, text and both figures into a folder, each whole or not at all, and return their paths."""
        contents = {
            "radio_flux.json": json.dumps(self.to_data(), indent=1, allow_nan=False).encode() + b"\n",
            "radio_flux.txt": self.to_text().encode(),
            "radio_flux.png": figure(self),
            "radio_flux_dark.png": figure(self, dark=True),
        }
        for name, data in contents.items():
            write_atomic(Path(folder) / name, data)
        return tuple(Path(folder) / name for name in contents)


def _plain(value: Any) -> Any:
    """Return plain data; keys are text, NaN is None."""
    if isinstance(value, (Score, ForecastConfig)):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def figure(table: Table, *, dark: bool = False) -> bytes:
    """Draw RMSE and skill of all methods against the horizon, with intervals.

    Parameters
    ----------
    table : Table
        The result.
    dark : bool
        Light on dark.

    Returns
    -------
    bytes
        PNG.
    """
    scheme = DARK if dark else LIGHT
    width, height, left, across, between, bottom, tall = 9.6, 4.55, 0.72, 4.0, 0.78, 0.92, 2.55
    canvas = new_figure(width, height, scheme)
    title = f"{table.quantity} forecast, {table.config.first_day} to {table.config.last_day}"
    canvas.text(0.1 / width, 1 - 0.22 / height, title, color=scheme.ink, fontsize=12, va="center", weight="bold")
    styles = _styles(table, scheme)
    panels = [axes_at(canvas, left + column * (across + between), bottom, across, tall, scheme) for column in (0, 1)]
    spread = 0.36 / max(len(styles) - 1, 1)
    for place, (method, style) in enumerate(styles.items()):
        shift = (place - (len(styles) - 1) / 2) * spread
        scores = table.of(method)
        horizons = np.array([score.horizon for score in scores]) + shift
        for axes, values, intervals in (
            (panels[0], [score.rmse for score in scores], [score.rmse_interval for score in scores]),
            (panels[1], [100 * score.skill for score in scores], [100 * np.array(s.skill_interval) for s in scores]),
        ):
            if axes is panels[1] and method == PERSISTENCE:
                continue
            low, high = np.transpose(intervals)
            axes.vlines(horizons, low, high, color=style["color"], linewidth=1.1, alpha=0.75)
            axes.plot(horizons, values, linewidth=1.3, markersize=5, markeredgewidth=1.1, **style)
    _dress(panels, table, scheme)
    _legend(canvas, styles, table, scheme, width, height)
    return png(canvas, scheme)


def _styles(table: Table, scheme: Scheme) -> dict[str, dict[str, Any]]:
    """Return how lines of the methods look: sets of features coloured and filled, baselines grey and hollow."""
    grey: dict[str, dict[str, Any]] = {
        PERSISTENCE: {"color": scheme.ink, "marker": "s", "linestyle": "-"},
        RECURRENCE: {"color": scheme.soft, "marker": "^", "linestyle": ":"},
        REGRESSION: {"color": scheme.soft, "marker": "v", "linestyle": "--"},
    }
    styles = {name: {**style, "markerfacecolor": scheme.paper} for name, style in grey.items()}
    for number, name in enumerate(table.features):
        stroke = ("-", "-.", ":")[number // 4 % 3]
        styles[name] = {"color": scheme.bands[number % 4], "marker": "oDPXph"[number % 6], "linestyle": stroke}
    return {name: styles[name] for name in table.methods}


def _dress(panels: list[Any], table: Table, scheme: Scheme) -> None:
    horizons = table.config.horizons
    for axes, name in zip(panels, ("RMSE (sfu)", "Skill against persistence (%)"), strict=True):
        axes.set_xlim(min(horizons) - 0.5, max(horizons) + 0.5)
        if len(horizons) <= _MOST_TICKS:
            axes.set_xticks(sorted(horizons))
        else:
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(_MOST_TICKS, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.set_xlabel("Days ahead", fontsize=9, color=scheme.ink)
        axes.set_title(name, color=scheme.ink, fontsize=9.5, pad=5)
        axes.grid(color=scheme.grid, linewidth=0.7)
        axes.set_axisbelow(True)
    panels[0].set_ylim(bottom=0)
    panels[1].axhline(0, color=scheme.ink, linewidth=1.3, zorder=1)
    if panels[1].get_ylim()[0] < _LEAST_SKILL:
        # A method far from all others would leave no room for their differences.
        panels[1].set_ylim(bottom=_LEAST_SKILL)
        panels[1].set_title(f"{panels[1].get_title()}, cut at −{-_LEAST_SKILL}", color=scheme.ink, fontsize=9.5, pad=5)


def _legend(
    canvas: Any, styles: dict[str, dict[str, Any]], table: Table, scheme: Scheme, width: float, height: float
) -> None:
    handles = [Line2D([], [], linewidth=1.4, markersize=5, label=name, **style) for name, style in styles.items()]
    canvas.legend(
        handles=handles, loc="center left", bbox_to_anchor=(0.1 / width, 1 - 0.57 / height),
        ncols=len(handles) if len(handles) <= _IN_ONE_ROW else -(-len(handles) // 2),
        frameon=False, fontsize=8.5, labelcolor=scheme.ink, handlelength=2.2, columnspacing=1.3, borderaxespad=0,
    )  # fmt: skip
    days = sorted({score.days for score in table.scores})
    number = f"{days[0]}" if len(days) == 1 else f"{days[0]}–{days[-1]}"
    told = (
        f"{number} test days in {max(table.blocks.values())} months; bars: {table.config.confidence:.0%} of "
        f"{table.config.draws:,} draws of whole test months. Split: {table.split()}."
    )
    canvas.text(0.1 / width, 0.2 / height, told, color=scheme.soft, fontsize=8, va="center")
