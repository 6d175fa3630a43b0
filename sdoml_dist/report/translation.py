"""Pictures of image translation: what goes in, what is true, and what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL, PRODUCTS

_INCHES = 2.2


def sample_picture(
    path: Path, inputs: np.ndarray, true: np.ndarray, made: np.ndarray, input_names: Sequence[str],
    output_names: Sequence[str], times: np.ndarray,
) -> Path:  # fmt: skip
    """Draw samples as rows of panels: every input, then true and made image of every output.

    Parameters
    ----------
    path : pathlib.Path
        PNG to write; replaced as a whole.
    inputs : numpy.ndarray
        Network inputs, -1 to 1, shape (samples, C, Y, X).
    true, made : numpy.ndarray
        Physical values, shape (samples, D, Y, X), NaN where there are none.
    input_names, output_names : sequence of str
        Names of the C and D channels.
    times : numpy.ndarray
        Times of the samples, UTC.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import sunpy.visualization.colormaps  # noqa: F401 - registers the colour tables of SDO

    titles = [*input_names, *(f"{kind} {name}" for name in output_names for kind in ("true", "made"))]
    shape = len(inputs), len(titles)
    figure, axes = plt.subplots(*shape, figsize=(shape[1] * _INCHES, shape[0] * _INCHES + 0.3), squeeze=False)
    for row, line in enumerate(axes):
        panels = [(image, name, (-1.0, 1.0)) for image, name in zip(inputs[row], input_names, strict=True)]
        for column, name in enumerate(output_names):
            limits = _limits(true[row, column], name)
            panels += [(images[row, column], name, limits) for images in (true, made)]
        for place, (axis, (image, name, (low, high))) in enumerate(zip(line, panels, strict=True)):
            axis.imshow(image, origin="lower", cmap=_colormap(name), vmin=low, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_facecolor("0.25")
            if row == 0:
                axis.set_title(titles[place], fontsize=9)
        line[0].set_ylabel(str(times[row].astype("datetime64[m]")).replace("T", " "), fontsize=8)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=80)
    plt.close(figure)
    return temporary.replace(path)


def _colormap(name: str) -> str:
    plain = name.split(" ")[0]
    if plain in AIA:
        return AIA[plain].colormap
    product = PRODUCT_OF_CHANNEL.get(plain)
    return "gray" if product is None else PRODUCTS[product].channels[plain].colormap


def _limits(image: np.ndarray, name: str) -> tuple[float, float]:
    """Return the values that are black and white: the same for the true and the made image."""
    values = image[np.isfinite(image)]
    if not values.size:
        return 0.0, 1.0
    plain = name.split(" ")[0]
    product = PRODUCT_OF_CHANNEL.get(plain)
    if product is not None and PRODUCTS[product].channels[plain].symmetric:
        reach = float(np.percentile(np.abs(values), 99.5)) or 1.0
        return -reach, reach
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low, max(high, low + 1e-9)
