"""Pictures of magnetograms before and after denoising."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

_INCHES = 2.4


def patch_picture(path: Path, columns: Mapping[str, np.ndarray], limit_gauss: float) -> Path:
    """Draw patches as rows of panels, one column for each kind.

    Parameters
    ----------
    path : pathlib.Path
        PNG to write; replaced as a whole.
    columns : mapping of str to numpy.ndarray
        By title: fields in gauss, shape (patches, Y, X), NaN where there is none.
    limit_gauss : float
        Field that is white or black.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    count = len(next(iter(columns.values())))
    size = (len(columns) * _INCHES, count * _INCHES + 0.3)
    figure, axes = plt.subplots(count, len(columns), figsize=size, squeeze=False)
    for row, line in enumerate(axes):
        for axis, (title, patches) in zip(line, columns.items(), strict=True):
            axis.imshow(
                patches[row], origin="lower", cmap="gray", vmin=-limit_gauss, vmax=limit_gauss, interpolation="nearest"
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_facecolor("0.25")
            if row == 0:
                axis.set_title(title, fontsize=9)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=90)
    plt.close(figure)
    return temporary.replace(path)
