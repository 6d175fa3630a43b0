"""Grids of suns: images of many channels in rows, drawn alike in the colours of SDO."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdoml_dist.atomic import write_atomic
from sdoml_dist.errors import UsageError
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS

_PANEL_INCHES = 1.45
_LEFT_INCHES, _TOP_INCHES = 1.25, 0.62
# Between a square root and a logarithm: the corona off the limb shows, and the disc does not burn out.
_POWER = 0.4


def limits(images: np.ndarray, symmetric: bool) -> tuple[float, float]:
    """Return what black and white stand for in a channel, so that all suns of a grid are drawn alike.

    Parameters
    ----------
    images : numpy.ndarray
        Any shape, physical units, NaN where there is no data.
    symmetric : bool
        Whether values of both signs are meant, around 0.
    """
    finite = images[np.isfinite(images)]
    if not finite.size:
        return (-1.0, 1.0) if symmetric else (0.0, 1.0)
    if symmetric:
        reach = 1.5 * float(np.percentile(np.abs(finite), 99.0)) or 1.0
        return -reach, reach
    low, high = (float(value) for value in np.percentile(finite, (1.0, 99.9)))
    return max(low, 0.0), max(high, max(low, 0.0) + 1e-12)


def sun_grid(
    rows: Sequence[tuple[str, np.ndarray]], channels: Sequence[str], title: str, *, reference: Sequence[int]
) -> bytes:
    """Draw suns, a row of channels for each.

    Parameters
    ----------
    rows : sequence of (str, numpy.ndarray)
        Label, and images of shape (channels, y, x) in physical units, NaN where there is no data.
    channels : sequence of str
        Their names.
    title : str
        Of the picture.
    reference : sequence of int
        Which rows say how bright all are drawn.

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    UsageError
        If there is nothing to draw.
    """
    import matplotlib as mpl
    import sunpy.visualization.colormaps  # noqa: F401 - registers the colour tables of SDO
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not rows or not channels or not reference:
        raise UsageError("There are no suns to draw.")
    width = _LEFT_INCHES + len(channels) * _PANEL_INCHES
    height = _TOP_INCHES + len(rows) * _PANEL_INCHES
    figure = Figure(figsize=(width, height), facecolor="black", dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.08 / width, 1 - 0.2 / height, title, color="white", fontsize=10, va="center")
    for column, name in enumerate(channels):
        spec = PRODUCTS[PRODUCT_OF_CHANNEL[name]].channels[name]
        low, high = limits(np.stack([rows[row][1][column] for row in reference]), spec.symmetric)
        colours = mpl.colormaps[spec.colormap].with_extremes(bad="black")
        middle = (_LEFT_INCHES + (column + 0.5) * _PANEL_INCHES) / width
        label = f"{AIA[name].wavelength_angstrom} \u00c5" if name in AIA else name
        figure.text(middle, 1 - 0.47 / height, label, color="0.85", fontsize=9, ha="center", va="center")
        for row, (_, images) in enumerate(rows):
            left, bottom = _LEFT_INCHES + column * _PANEL_INCHES, (len(rows) - row - 1) * _PANEL_INCHES
            box = (left / width, bottom / height, _PANEL_INCHES / width, _PANEL_INCHES / height)
            axes = figure.add_axes(box)
            axes.set_axis_off()
            scaled = np.clip((images[column] - low) / (high - low), 0, 1)
            shown = scaled if spec.symmetric else scaled**_POWER
            axes.imshow(np.ma.masked_invalid(shown), origin="lower", cmap=colours, vmin=0, vmax=1)
    for row, (label, _) in enumerate(rows):
        middle = (len(rows) - row - 0.5) * _PANEL_INCHES / height
        figure.text(0.08 / width, middle, label, color="0.85", fontsize=8, va="center", linespacing=1.35)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="black")
    return out.getvalue()


def write_suns(
    path: str | Path,
    rows: Sequence[tuple[str, np.ndarray]],
    channels: Sequence[str],
    title: str,
    *,
    reference: Sequence[int],
) -> Path:
    """Write the picture of :func:`sun_grid`, whole or not at all."""
    target = Path(path)
    write_atomic(target, sun_grid(rows, channels, title, reference=reference))
    return target
