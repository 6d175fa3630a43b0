"""A mosaic of all channels at one time, in the colours of SDO."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.store.reader import open_dataset, open_products

_PANEL_INCHES = 3.2


def best_slot(status: np.ndarray) -> int:
    """Return the first slot with the most frames that are ok; `status` has shape (slots, channels)."""
    return int((status == int(FrameStatus.OK)).sum(axis=1).argmax())


def stretched(image: np.ndarray, symmetric: bool) -> np.ndarray:
    """Bring an image to 0..1 for a colour table.

    Intensities by a power between square root and logarithm, which shows the corona off the limb without burning out the
    disc; fields and velocities linearly around 0, to 1.5 times their 99th percentile.
    """
    if symmetric:
        reach = 1.5 * float(np.nanpercentile(np.abs(image), 99.0)) or 1.0
        centred: np.ndarray = np.clip(0.5 + 0.5 * image / reach, 0, 1)
        return centred
    low, high = np.nanpercentile(image, (1.0, 99.9))
    scaled: np.ndarray = (np.clip(image - max(low, 0.0), 0, None) / max(high - max(low, 0.0), 1e-12)) ** 0.4
    return scaled


def _title(channel: str) -> str:
    return f"{AIA[channel].wavelength_angstrom} \u00c5" if channel in AIA else channel


def quicklook(
    url: str, output: str | Path, *, time: str | None = None, version: str | None = None, product: str | None = None,
    **options: Any,
) -> Path:  # fmt: skip
    """Draw all channels of one slot as a PNG.

    Parameters
    ----------
    url : str
        The dataset.
    output : path
        PNG to write; replaced as a whole.
    time : str, optional
        UTC; the nearest slot is taken. By default the first slot with most channels.
    version : str, optional
        Tag or snapshot id.
    product : str, optional
        By default the first product of images.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    UsageError
        If no frame of that time is there.
    """
    import matplotlib as mpl
    import sunpy.visualization.colormaps  # noqa: F401 - registers the colour tables of SDO
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [
        one for one in open_products(url, version, product=product, **options) if one.recipe.contents.kind == "images"
    ]
    if not images:
        raise UsageError("There are no images to draw.", "EVE has a number per minute.", "See 'sdoml report'.")
    contents = images[0].recipe.contents
    ds = open_dataset(url, version, product=contents.name, **options)
    channels = [str(name) for name in ds.channel.values]
    if time is None:
        slot = best_slot(ds["status"].values)
    else:
        slot = int(np.abs(ds.time.values - np.datetime64(time, "ns")).argmin())
    row = ds.isel(time=slot)
    codes = [FrameStatus(int(code)) for code in row["status"].values]
    stamp = format_fits_time(ds.time.values[slot], 0).replace("T", " ")
    if FrameStatus.OK not in codes:
        raise UsageError(f"No channel has a frame at {stamp} UTC.", "", "Choose another --time; see 'sdoml status'.")

    columns = math.ceil(math.sqrt(len(channels)))
    rows = math.ceil(len(channels) / columns)
    figure = Figure(figsize=(columns * _PANEL_INCHES, rows * _PANEL_INCHES + 0.35), facecolor="black", dpi=120)
    FigureCanvasAgg(figure)
    top = 1 - 0.35 / figure.get_figheight()
    for index, (name, code) in enumerate(zip(channels, codes, strict=True)):
        left, bottom = (index % columns) / columns, top * (1 - (index // columns + 1) / rows)
        axes = figure.add_axes((left, bottom, 1 / columns, top / rows))
        axes.set_axis_off()
        axes.set_facecolor("black")
        if code is FrameStatus.OK:
            image = row[name].values
            colours = mpl.colormaps[contents.channels[name].colormap]
            axes.imshow(
                stretched(image, contents.channels[name].symmetric), origin="lower", cmap=colours, vmin=0, vmax=1
            )
            seen = format_fits_time(row["T_OBS"].sel(channel=name).values.astype("datetime64[ns]"), 1)[11:]
            label = f"{_title(name)}   {seen}"
        else:
            label = f"{_title(name)}   {code.label.replace('_', ' ')}"
        axes.text(0.02, 0.02, label, color="white", fontsize=8, transform=axes.transAxes)
    figure.text(
        0.01, 1 - 0.22 / figure.get_figheight(), f"SDO  {contents.title}  {stamp} UTC", color="white", fontsize=11
    )
    figure.text(0.99, 1 - 0.22 / figure.get_figheight(), str(ds.attrs["title"]), color="0.7", fontsize=9, ha="right")
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.png")
    figure.savefig(temporary, format="png", facecolor="black")
    temporary.replace(target)
    return target
