"""Forecast of the daily radio flux from features of images, after Brown et al. 2022 ("Learning the solar latent space").

Protocol
--------
Features of day D (of one image, see :func:`daily_features`) predict the flux of day D + h, for each horizon h by itself,
with scikit-learn's ExtraTreesRegressor. Days of features are June 2010 to December 2018; March of 2011-2018 is for
validation, January of 2011-2018 for the test, the remainder for training. The number of trees, of 250 to 2000, is the
one with the least RMSE on validation days; the forest is not fitted again with them. The flux of the paper is F30.

The published split leaks at the borders of months: a forecast of 31 December has its target in January, and one of
1 February is trained on images and targets that forecasts of late January are tested with. ``gap_days`` removes such
days from training. It is None, the published protocol, by default.

Baselines: persistence, flux(D + h) = flux(D), is the paper's. Ours are the recurrence of 27 days, the synodic rotation,
flux(D + h) = flux(D + h - 27), and a linear regression on the last daily values.

Baselines know the flux of day D, measured at about 20 UT in Penticton and 03 UT in Nobeyama; an image of 00 UT is older.
All methods are trained and tested on the same days: those with features in all sets, a target, and the flux that the
baselines need. Others are left out, and counted by the first reason.

Uncertainty: whole test months are drawn with replacement, the same for all methods, because days within a month are not
independent. With eight months such intervals are rough and rather too narrow; the chance in training is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import sklearn
from sklearn.ensemble import ExtraTreesRegressor

from sdoml_dist.errors import UsageError
from sdoml_dist.experiments.radio_flux_table import (
    PARTS,
    PERSISTENCE,
    REASONS,
    RECURRENCE,
    REGRESSION,
    ROTATION_DAYS,
    ForecastConfig,
    Score,
    Table,
    figure,
)
from sdoml_dist.solar.radio_flux import RadioFlux

__all__ = [
    "ForecastConfig",
    "Score",
    "Table",
    "daily_features",
    "figure",
    "forest",
    "forest_predictions",
    "in_gap",
    "run",
    "splits",
]

_DAY = np.timedelta64(1, "D")
_NO_TREES = 0


def daily_features(
    times: np.ndarray, latents: np.ndarray, hour: float = 0.0, tolerance: np.timedelta64 | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the features of one image a day: the nearest to an hour, of two as near the earlier.

    Parameters
    ----------
    times : ndarray of datetime64
        Times of images, UTC, shape (n,), in any order.
    latents : ndarray
        Their features, shape (n, features); rows with NaN do not take part.
    hour : float
        UT hour.
    tolerance : timedelta64, optional
        Largest distance, at most 12 hours; 6 hours by default. An image before midnight may belong to the next day.

    Returns
    -------
    days : ndarray of datetime64[D]
        Days that have an image, in order, shape (days,).
    features : ndarray
        Their features, shape (days, features).
    """
    limit = (np.timedelta64(6, "h") if tolerance is None else tolerance).astype("timedelta64[ns]")
    if latents.ndim != 2 or times.shape != latents.shape[:1]:
        raise UsageError(f"Times of shape {times.shape} and features of shape {latents.shape} do not fit.")
    if not np.timedelta64(0, "ns") <= limit <= np.timedelta64(12, "h"):
        raise UsageError(f"A tolerance of {tolerance} is not between 0 and 12 hours.")
    shifted = times.astype("datetime64[ns]") - np.timedelta64(round(hour * 3.6e12), "ns")
    days = (shifted + np.timedelta64(12, "h")).astype("datetime64[D]")
    distance = np.abs(shifted - days)
    order = np.lexsort((shifted, distance, days))
    order = order[((distance <= limit) & np.isfinite(latents).all(axis=1))[order]]
    found, first = np.unique(days[order], return_index=True)
    return found, latents[order[first]]


def splits(days: np.ndarray, config: ForecastConfig) -> dict[str, np.ndarray]:
    """Return which days of features are for training, validation and test, as published: masks, shape (n,)."""
    months = days.astype("datetime64[M]").astype(np.int64)
    held = np.isin(1970 + months // 12, config.held_out_years)
    validation, test = (held & (months % 12 + 1 == month) for month in (config.validation_month, config.test_month))
    return {"train": ~validation & ~test, "validation": validation, "test": test}


def in_gap(days: np.ndarray, held: np.ndarray, horizon: int, config: ForecastConfig) -> np.ndarray:
    """Return which days of features lie too near to held-out ones for training, shape (n,).

    A forecast uses the days from D - history + 1 to D + horizon. Those of two forecasts have ``gap_days`` or fewer days
    of distance, 0 if they share one, just when their days D are ``horizon + history - 1 + gap_days`` or fewer apart.
    """
    if config.gap_days is None or not held.any():
        return np.zeros(days.shape, bool)
    far = (horizon + config.history - 1 + config.gap_days) * _DAY
    near: np.ndarray = (np.abs(days[:, None] - days[held][None]) <= far).any(axis=1)
    return near & ~held


def forest(trees: int, config: ForecastConfig) -> ExtraTreesRegressor:
    """Return the regressor with the defaults of scikit-learn 1.0, whose "auto" for features is all of them, 1.0."""
    return ExtraTreesRegressor(
        n_estimators=trees, criterion="squared_error", max_depth=None, min_samples_split=2, min_samples_leaf=1,
        min_weight_fraction_leaf=0.0, max_features=1.0, max_leaf_nodes=None, min_impurity_decrease=0.0, bootstrap=False,
        oob_score=False, warm_start=False, ccp_alpha=0.0, max_samples=None, n_jobs=config.n_jobs,
        random_state=config.random_state,
    )  # fmt: skip


def forest_predictions(
    train: tuple[np.ndarray, np.ndarray], x: np.ndarray, config: ForecastConfig
) -> dict[int, np.ndarray]:
    """Return predictions for `x` by forests of all numbers of trees.

    The first trees of a forest are the forest of so many trees with the same seed, so that only the largest is fitted.
    """
    model = forest(max(config.trees), config).fit(*train)
    x = np.ascontiguousarray(x, np.float32)  # what trees compare
    total, predictions = np.zeros(len(x)), {}
    for number, tree in enumerate(model.estimators_, 1):
        total += tree.predict(x, check_input=False)
        if number in config.trees:
            predictions[number] = total / number
    return predictions


def _aligned(name: str, days: np.ndarray, values: np.ndarray, calendar: np.ndarray) -> np.ndarray:
    """Return features on the days of the calendar, shape (days, features), float32; NaN where there are none."""
    days = np.asarray(days).astype("datetime64[D]")
    if values.ndim != 2 or days.shape != values.shape[:1] or np.unique(days).size != days.size:
        raise UsageError(f"{name}: one row of features a day is expected.", hint="Choose rows with daily_features().")
    inside = np.isin(days, calendar)
    aligned = np.full((calendar.size, values.shape[1]), np.nan, np.float32)
    aligned[(days[inside] - calendar[0]).astype(np.int64)] = values[inside]
    return aligned


def run(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]], flux: RadioFlux, config: ForecastConfig | None = None
) -> Table:
    """Forecast the flux from sets of features, and by the baselines.

    One forest is in memory at a time: about 0.4 MB per tree for 2600 training days, 0.75 GB for 2000 trees. A tree takes
    about 0.2 s with 256 features and 1.6 s with 2048 on one core; ``n_jobs`` shares them among threads.

    Parameters
    ----------
    features : mapping of str to (days, values)
        For each set its days, datetime64 of shape (n,), each once, and features of shape (n, number).
    flux : RadioFlux
        Daily flux.
    config : ForecastConfig, optional
        Protocol; by default as published.

    Returns
    -------
    Table
        Errors of all methods.

    Raises
    ------
    UsageError
        If a set does not fit, or no days are left for training, validation or test.
    """
    config = config or ForecastConfig()
    calendar = config.calendar()
    if taken := {PERSISTENCE, RECURRENCE, REGRESSION} & set(features):
        raise UsageError(f"{', '.join(taken)}: this is the name of a baseline.")
    sets = {name: _aligned(name, *found, calendar) for name, found in features.items()}
    history = np.stack([flux.on_days(calendar - lag * _DAY) for lag in range(config.history)], axis=1)
    if config.flux_history:
        recent = history[:, : config.flux_history].astype(np.float32)
        sets = {f"{name} + flux": np.hstack([values, recent]) for name, values in sets.items()}
    lacking = np.zeros(calendar.size, bool)
    for values in sets.values():
        lacking |= ~np.isfinite(values).all(axis=1)
    scores: list[Score] = []
    counts, blocks = {}, {}
    for horizon in config.horizons:
        target, recurrent = (flux.on_days(calendar + ahead * _DAY) for ahead in (horizon, horizon - ROTATION_DAYS))
        masks = splits(calendar, config)
        lacks = [
            lacking,
            np.isnan(history[:, 0]),
            np.isnan(target),
            np.isnan(history).any(axis=1) | np.isnan(recurrent),
            in_gap(calendar, ~masks["train"], horizon, config),
        ]
        used, counts[horizon] = _count(masks, lacks, horizon)
        train, validation, test = (used[part] for part in PARTS)
        both = np.concatenate([validation, test])
        predictions = {
            PERSISTENCE: {_NO_TREES: history[both, 0]},
            RECURRENCE: {_NO_TREES: recurrent[both]},
            REGRESSION: {_NO_TREES: _regression(history[:, : config.regression_history], target, train)[both]},
        }
        for name, values in sets.items():
            predictions[name] = forest_predictions((values[train], target[train]), values[both], config)
        found, blocks[horizon] = _scores(predictions, target[both], validation.size, calendar[test], horizon, config)
        scores += found
    sizes = {name: values.shape[1] for name, values in sets.items()}
    return Table(flux.quantity, config, sizes, tuple(scores), counts, blocks, f"scikit-learn {sklearn.__version__}")


def _count(
    masks: dict[str, np.ndarray], lacks: list[np.ndarray], horizon: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """Return for each part of the days the places of those used, and how many are planned, used and left out."""
    used, counts = {}, {}
    for part, mask in masks.items():
        left, count = mask.copy(), {"planned": int(mask.sum())}
        for reason, lack in zip(REASONS, lacks, strict=True):
            count[reason] = int((left & lack).sum())
            left &= ~lack
        used[part] = np.flatnonzero(left)
        counts[part] = {**count, "used": used[part].size}
        if not used[part].size:
            told = ", ".join(f"{number} {reason}" for reason, number in count.items() if number)
            raise UsageError(
                f"No days are left for {part}, {horizon} days ahead: {told or 'none planned'}.",
                hint="Give features and flux that cover the protocol, or change its days.",
            )
    return used, counts


def _regression(history: np.ndarray, target: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return least-squares predictions from daily values and a constant for all days; NaN where values are."""
    terms = np.column_stack([np.ones(len(history)), history])
    predicted: np.ndarray = terms @ np.linalg.lstsq(terms[train], target[train])[0]
    return predicted


def _rmse(squares: np.ndarray) -> float:
    return float(np.sqrt(squares.mean()))


def _scores(
    predictions: dict[str, dict[int, np.ndarray]],
    target: np.ndarray,
    validation: int,
    test_days: np.ndarray,
    horizon: int,
    config: ForecastConfig,
) -> tuple[list[Score], int]:
    """Choose trees on the first `validation` days, and score all methods on the others.

    Returns the scores and the number of test months. With s_m the sum of squared errors of a month and n_m its days, the
    RMSE of a draw is sqrt(sum s_m / sum n_m) over the months drawn.
    """
    chosen, errors = {}, {}
    for method, by_trees in predictions.items():
        # Of forests as good on validation days the smallest.
        rmse, trees = min((_rmse((p[:validation] - target[:validation]) ** 2), n) for n, p in by_trees.items())
        chosen[method] = trees, rmse
        errors[method] = by_trees[trees][validation:] - target[validation:]
    _, block, days = np.unique(test_days.astype("datetime64[M]"), return_inverse=True, return_counts=True)
    random = np.random.default_rng((config.random_state, horizon))
    months = random.integers(days.size, size=(config.draws, days.size))
    drawn_days = days[months].sum(axis=1)
    drawn = {
        method: np.sqrt(np.bincount(block, error**2)[months].sum(axis=1) / drawn_days)
        for method, error in errors.items()
    }
    tails = np.array([1 - config.confidence, 1 + config.confidence]) / 2
    reference = _rmse(errors[PERSISTENCE] ** 2)
    scores = []
    for method, error in errors.items():
        rmse = _rmse(error**2)
        # Where persistence is exact there is no skill against it; with one month there is nothing to draw from.
        with np.errstate(divide="ignore", invalid="ignore"):
            skill = 1 - np.float64(rmse) / reference
            intervals = [
                np.quantile(values, tails) if days.size > 1 and np.isfinite(values).all() else np.full(2, np.nan)
                for values in (drawn[method], 1 - drawn[method] / drawn[PERSISTENCE])
            ]
        (low, high), (least, most) = (map(float, interval) for interval in intervals)
        trees, validation_rmse = chosen[method]
        scores.append(
            Score(
                method, horizon, error.size, rmse, float(np.abs(error).mean()), (low, high), float(skill), (least, most),
                trees or None, validation_rmse,
            )
        )  # fmt: skip
    return scores, days.size
