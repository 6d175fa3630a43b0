"""Draw the suns that a search in a latent catalog has found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.suns import write_suns
from sdoml_dist.solar.times import format_fits_time
from sdoml_dist.store.catalog import Catalog
from sdoml_dist.store.similar import Neighbours
from sdoml_dist.training.loading import Loader
from sdoml_dist.training.samples import Samples

# A hot, a warm, a cool channel and the field show most of what makes suns alike; a dozen would not fit on a screen.
_SHOWN = ("94A", "171A", "193A", "304A", "Bz")


def draw_similar(
    catalog: Catalog, found: Neighbours, path: str | Path, *, query: int = 0, dataset: Store | None = None,
    channels: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """Draw the Sun that was asked about, if it was one, and its neighbours below, from near to far.

    Images are read from the dataset at the version that was encoded, at the encoder's size.

    Parameters
    ----------
    catalog : Catalog
        Where was searched.
    found : Neighbours
        What :func:`sdoml_dist.store.similar.similar` found.
    path : path
        PNG to write.
    query : int
        Which of the queries.
    dataset : Store, optional
        The dataset, if it is no longer where the catalog says.
    channels : sequence of str, optional
        What to draw; by default some of the catalog's.

    Raises
    ------
    UsageError
        If a channel was not encoded, or nothing was found.
    StoreError
        If the dataset has not these images.
    """
    info = catalog.info
    some = [name for name in _SHOWN if name in info.channels] or list(info.channels[:4])
    wanted = list(channels) if channels else some
    if unknown := [name for name in wanted if name not in info.channels]:
        raise UsageError(f"{unknown[0]} was not encoded; the catalog has {', '.join(info.channels)}.")
    ranks = np.flatnonzero(~np.isnat(found.times[query]))
    if not ranks.size:
        raise UsageError("No sun was found that could be drawn.")
    asked = found.query_times[query]
    times = found.times[query][ranks] if np.isnat(asked) else np.append(asked, found.times[query][ranks])
    settings = info.settings
    store = catalog.folder.store.model_copy(update={"url": info.dataset}) if dataset is None else dataset
    samples = Samples.find(
        store, info.channels, version=info.snapshot, cadence=settings["cadence_s"], tolerance=settings["tolerance_s"],
        require=settings["require"],
    )  # fmt: skip
    rows = np.minimum(np.searchsorted(samples.times, times), len(samples) - 1)
    if (samples.times[rows] != times).any():
        missing = times[samples.times[rows] != times][0]
        raise StoreError(f"{samples.store.url} has no image at {missing}.", "The catalog was made of another dataset.")
    columns = [info.channels.index(name) for name in wanted]
    batch = Loader(samples, None, settings["size"], threads=2).read(rows)
    images = batch["physical"].numpy()[:, columns]
    labels = [f"{rank + 1}.  {found.distances[query][rank]:.3g}" for rank in ranks]
    if not np.isnat(asked):
        labels.insert(0, "asked about")
    stamps = [format_fits_time(moment, 0).replace("T", "\n") for moment in times]
    suns = [(f"{label}\n{stamp}", image) for label, stamp, image in zip(labels, stamps, images, strict=True)]
    return write_suns(
        path, suns, wanted, f"similar suns by {info.model}, {info.latent} numbers", reference=range(len(suns))
    )
