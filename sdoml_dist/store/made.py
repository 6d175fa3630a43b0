"""Datasets that a network makes: products that are written together, shard by shard, and committed together.

A product is described by a recipe whose source is the network (:class:`sdoml_dist.recipe_sources.NetworkConfig`), so that it
is opened, checked, versioned and exported like any other, and a run with other weights or another layout is refused as a
build with another recipe is.

The driver makes the template first (:class:`Output`); a worker makes a :class:`Shard`, the whole of one unit; another writes
it through a fork of the driver's session (:func:`write_shard`); the driver commits the receipts. None of this needs Ray.
"""

from __future__ import annotations

import json
import pickle
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sdoml_dist.errors import StoreError, UsageError
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe import Recipe, calibration_id
from sdoml_dist.recipe_base import Period, Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.geometry import grid_keywords
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.products import PRODUCT_OF_CHANNEL
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import format_fits_time, slot_times, slots_per_day
from sdoml_dist.store.dataset import Dataset, stored_recipe, write_unit
from sdoml_dist.store.finalise import finalise
from sdoml_dist.store.reader import open_products
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.repository import Ledger, exists
from sdoml_dist.store.statistics import BINS, MOMENTS, describe

# Shards pass through Ray's object store on their way to the writer; several must fit into a small one.
_SHARD_BYTES = 8 * 2**20
_SCHEMA = pa.schema([("unit", pa.string()), ("about", pa.large_binary()), ("values", pa.large_binary())])


def made_recipes(
    store: Store, channels: Sequence[str], source: NetworkConfig, *, name: str, period: Period, cadence_s: int,
    pixels: int, solar_radius_arcsec: float, shard_slots: int | None = None,
) -> list[Recipe]:  # fmt: skip
    """Return a recipe for each product that some channels belong to.

    Parameters
    ----------
    store : Store
        Where the dataset is made.
    channels : sequence of str
        What the network makes.
    source : NetworkConfig
        The network, and what it is applied to.
    name : str
        Short name of the dataset.
    period : Period
        Stretch of time.
    cadence_s : int
        Spacing of the slots.
    pixels : int
        Side of the images.
    solar_radius_arcsec : float
        Of the grid.
    shard_slots : int, optional
        Slots per shard; by default as many as make 8 MiB of a channel, at most a day.

    Raises
    ------
    UsageError
        If channels, cadence or layout cannot be those of a dataset.
    """
    unknown = [channel for channel in channels if channel not in PRODUCT_OF_CHANNEL]
    if unknown or not channels:
        raise UsageError(f"No product has the channels {', '.join(unknown) or '(none)'}.")
    products = dict.fromkeys(PRODUCT_OF_CHANNEL[channel] for channel in channels)
    try:
        slots = shard_slots or max(1, min(_SHARD_BYTES // (4 * pixels**2), slots_per_day(cadence_s)))
        return [
            Recipe.model_validate(
                {
                    "product": product, "name": name, "period": period.model_dump(), "cadence": cadence_s,
                    "tolerance": cadence_s // 2, "store": store.model_dump(), "source": source.model_dump(),
                    "channels": [channel for channel in channels if PRODUCT_OF_CHANNEL[channel] == product],
                    "grid": {"pixels": pixels, "solar_radius_arcsec": solar_radius_arcsec},
                    "chunking": {"shard_slots": slots},
                }
            )
            for product in products
        ]  # fmt: skip
    except ValueError as error:
        raise UsageError(f"These channels and times make no dataset: {error}") from None


def slot_period(times: np.ndarray, cadence_s: int) -> Period:
    """Return the period whose slots run from the first to the last of some times."""
    step = np.timedelta64(cadence_s, "s")
    first, last = times.min(), times.max() + step
    return Period(start=str(first.astype("datetime64[s]")), end=str(last.astype("datetime64[s]")))


@dataclass(frozen=True)
class ShardTask:
    """A stretch of time that a worker makes all products of.

    Attributes
    ----------
    year, shard : int
        Year group and index of the shard in it.
    slots : numpy.ndarray
        Slots of the year to do, shape (frames,), ascending.
    units : tuple of (str, Unit)
        Products and units with work in them.
    """

    year: int
    shard: int
    slots: np.ndarray
    units: tuple[tuple[str, Unit], ...]

    @property
    def name(self) -> str:
        """Readable identity, for example ``2011/045``."""
        return f"{self.year}/{self.shard:03d}"


@dataclass
class Shard:
    """What a worker made of a unit: a whole shard of each of its channels.

    Attributes
    ----------
    product : str
        Product of the unit.
    unit : Unit
        The unit.
    slots : numpy.ndarray
        Slots of the year, shape (frames,).
    values : numpy.ndarray or None
        Shape (channels, frames, y, x), float32, NaN where there is no data; None if no frame is ok.
    status : numpy.ndarray
        What became of each frame, shape (frames, channels), uint8, none of it pending.
    keywords : dict of str to numpy.ndarray
        Columns of the product, each of shape (frames, channels); those not given keep their fill values.
    texts : list of str
        The record of each frame as JSON.
    """

    product: str
    unit: Unit
    slots: np.ndarray
    values: np.ndarray | None
    status: np.ndarray
    keywords: dict[str, np.ndarray]
    texts: list[str]
    seconds: float = 0.0
    shape: tuple[int, ...] = field(default=())

    def block(self) -> pa.Table:
        """Return a table of one row, as Ray Data carries it; pixels are not copied."""
        values = self.values
        self.shape, self.values = (0,) if values is None else values.shape, None
        pixels = pa.py_buffer(b"" if values is None else np.ascontiguousarray(values, np.float32).reshape(-1))
        offsets = pa.py_buffer(np.array([0, pixels.size], np.int64))
        column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pixels])
        try:
            return pa.table([pa.array([self.unit.unit_id]), pa.array([pickle.dumps(self)], pa.large_binary()), column],
                            schema=_SCHEMA)  # fmt: skip
        finally:
            self.values = values

    @classmethod
    def of(cls, table: pa.Table) -> Iterator[Shard]:
        """Yield the shards of a table, their pixels as read-only views of it."""
        for about, values in zip(table.column("about"), table.column("values"), strict=True):
            shard: Shard = pickle.loads(about.as_py())  # noqa: S301 - made by our own workers
            if shard.shape != (0,):
                shard.values = np.frombuffer(values.as_buffer(), np.float32).reshape(shard.shape)
            yield shard


def no_shards() -> pa.Table:
    """Return a table without rows, with the schema of :meth:`Shard.block`."""
    return _SCHEMA.empty_table()


def write_shard(fork_bytes: bytes, recipe: Recipe, shard: Shard) -> Receipt:
    """Write a shard with moments and histograms through a fork of the driver's session; runs on a worker.

    Raises
    ------
    ValueError
        If the parts of the shard do not fit its unit: whole shards are written, so nothing else could be told from it.
    """
    started, clock = time.time(), time.perf_counter()
    channels, frames = recipe.bundle(shard.unit.bundle).channels, shard.slots.size
    wanted = (len(channels), frames, recipe.grid.pixels, recipe.grid.pixels)
    inside = (shard.slots >= shard.unit.start) & (shard.slots < shard.unit.stop)
    if (
        shard.status.shape != (frames, len(channels)) or len(shard.texts) != frames or not inside.all()
        or (shard.values is not None and shard.values.shape != wanted)
    ):  # fmt: skip
        raise ValueError(
            f"{shard.unit.unit_id}: values of shape {None if shard.values is None else shard.values.shape}, status of shape "
            f"{shard.status.shape} and {len(shard.texts)} records do not fit {frames} slots of {wanted}"
        )
    specs = recipe.contents.keywords
    keywords = {name: np.full(shard.status.shape, spec.fill, spec.dtype) for name, spec in specs.items()}
    ok = shard.status == int(FrameStatus.OK)
    for name, column in shard.keywords.items():
        keywords[name][ok] = column[ok]
    keywords["CALIBRATION"][ok] = calibration_id(recipe, {})
    moments = {
        name: np.full(shard.status.shape, np.nan if dtype[0] == "f" else 0, dtype)
        for name, (dtype, _) in MOMENTS.items()
    }
    values, histograms = {}, {}
    first = shard.unit.shard * recipe.shard_slots
    if shard.values is not None:
        for column_number, name in enumerate(channels):
            whole = np.full((recipe.shard_slots, *wanted[2:]), np.nan, np.float32)
            counts = np.zeros((frames, BINS), np.uint32)
            for row in np.flatnonzero(ok[:, column_number]):
                image = shard.values[column_number, row]
                whole[shard.slots[row] - first] = image
                for key, value in zip(MOMENTS, describe(image, counts[row]), strict=True):
                    moments[key][row, column_number] = value
            values[name], histograms[name] = whole, counts
    fork = write_unit(fork_bytes, recipe, shard.unit, shard.slots, values, shard.texts, histograms)
    write_s = time.perf_counter() - clock
    return Receipt(
        unit=shard.unit, slots=shard.slots, channels=channels, status=shard.status, keywords=keywords, moments=moments,
        fork=fork, started=started, seconds=shard.seconds + write_s, node=socket.gethostname(),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        phases={"compute": shard.seconds, "write": write_s},
    )  # fmt: skip


class Output:
    """Products of one dataset, opened for writing by its one driver; the template is made here, before any value.

    Parameters
    ----------
    recipes : sequence of Recipe
        Of :func:`made_recipes`: one store, one grid of times, one size of shards.

    Attributes
    ----------
    fork_bytes : bytes
        A pickled fork of the session, through which workers write.

    Raises
    ------
    StoreError
        If the dataset was made by other weights, from another version, or in another layout.
    """

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.store = recipes[0].store
        self._refuse_other_products(recipes)
        self.ledger = Ledger(self.store)
        # The period may grow with what the network is applied to.
        self.datasets = {one.product: Dataset(Plan(one), {}, True, ledger=self.ledger) for one in recipes}
        self.fork_bytes = self.ledger.fork()

    def _refuse_other_products(self, recipes: Sequence[Recipe]) -> None:
        if not exists(self.store):
            return
        for opened in open_products(self.store):
            if not isinstance(stored_recipe(opened.group).source, NetworkConfig):
                raise StoreError(
                    f"{self.store.url} holds {opened.name!r}, which was built from observations.",
                    "Observations and what a network makes of them would lie in one dataset.",
                    "Give the network's output a place of its own.",
                )

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Recipes by product."""
        return {name: dataset.plan.recipe for name, dataset in self.datasets.items()}

    def tasks(self, times: np.ndarray, retry: Sequence[str] = ()) -> list[ShardTask]:
        """Return the work that is left.

        Parameters
        ----------
        times : numpy.ndarray
            Slots that there is something to say about, ``datetime64[ns]`` UTC, shape (n,).
        retry : sequence of str
            Outcomes to do again besides what is pending.
        """
        found: dict[tuple[int, int], list[tuple[str, Unit, np.ndarray]]] = {}
        for product, dataset in self.datasets.items():
            cadence = dataset.plan.recipe.cadence
            known = {year: np.isin(slot_times(year, cadence), times) for year in dataset.plan.years()}
            for unit, slots in dataset.pending(retry):
                slots = slots[known[unit.year][slots]]
                if slots.size:
                    found.setdefault((unit.year, unit.shard), []).append((product, unit, slots))
        return [
            ShardTask(
                year, shard, np.unique(np.concatenate([slots for _, _, slots in group])),
                tuple((product, unit) for product, unit, _ in group),
            )
            for (year, shard), group in sorted(found.items())
        ]  # fmt: skip

    def commit(self, receipts: Sequence[tuple[str, Receipt]], metadata: dict[str, Any] | None = None) -> None:
        """Make shards of these products, and what became of their frames, visible at once.

        Parameters
        ----------
        receipts : sequence of (str, Receipt)
            Products and what :func:`write_shard` gave back.
        metadata : dict, optional
            Of the commit.
        """
        if not receipts:
            return

        def write() -> None:
            for product, dataset in self.datasets.items():
                mine = [receipt for name, receipt in receipts if name == product]
                if mine:
                    dataset.write_tables(mine)

        frames = sum(receipt.status.size for _, receipt in receipts)
        forks = (receipt.fork for _, receipt in receipts)
        self.ledger.merge(forks, write, f"{len(receipts)} shards, {frames} frames", metadata or {})

    def finish(self) -> None:
        """Bring the statistics of all products up to date."""
        for dataset in self.datasets.values():
            finalise(dataset)


def nominal_frames(
    recipe: Recipe, unit: Unit, slots: np.ndarray, ok: np.ndarray, origin: dict[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return what can be said of images that have a time only: position by SDO's nominal orbit, and the grid.

    Parameters
    ----------
    recipe : Recipe
        Of the product.
    unit : Unit
        Of the shard.
    slots : numpy.ndarray
        Slots of the year, shape (frames,).
    ok : numpy.ndarray
        Which of them have an image: boolean, shape (frames,).
    origin : dict
        Where images come from, for the record of each frame.

    Returns
    -------
    keywords : dict of str to numpy.ndarray
        Columns of shape (frames, channels), for :class:`Shard`.
    texts : list of str
        Records.
    """
    channels, grid, specs = recipe.bundle(unit.bundle).channels, recipe.grid, recipe.contents.keywords
    keywords = {name: np.full((slots.size, len(channels)), spec.fill, spec.dtype) for name, spec in specs.items()}
    texts = []
    for row, moment in enumerate(slot_times(unit.year, recipe.cadence)[slots]):
        if not ok[row]:
            texts.append(json.dumps({"source": None}, separators=(",", ":")))
            continue
        seen = ephemeris(moment)
        header: dict[str, Any] = grid_keywords(grid.pixels, grid.solar_radius_arcsec, seen.rsun_obs_arcsec) | {
            "DSUN_OBS": seen.dsun_obs_m, "CRLT_OBS": seen.b0_deg, "CRLN_OBS": seen.l0_deg, "HGLT_OBS": seen.b0_deg,
            "HGLN_OBS": seen.hgln_deg, "CAR_ROT": seen.carrington_rotation,
        }  # fmt: skip
        for name in header.keys() & specs.keys():
            keywords[name][row] = header[name]
        keywords["T_OBS"][row] = moment.astype("datetime64[ns]").astype(np.int64)
        header["T_OBS"] = f"{format_fits_time(moment)}Z"
        if unit.bundle in AIA:
            header["WAVELNTH"] = AIA[unit.bundle].wavelength_angstrom
        note = "position and radius are computed from SDO's nominal orbit"
        record = {"source": recipe.source.kind, "header": header, "made": origin | {"keywords": note}}
        texts.append(json.dumps(record, separators=(",", ":")))
    return keywords, texts
