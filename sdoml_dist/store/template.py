"""The template: every array of a dataset, created before any value. Workers write regions, never arrays."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from sdoml_dist.plan import Plan
from sdoml_dist.recipe import Recipe, calibration_id, calibration_terms
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import year_slots
from sdoml_dist.store.statistics import BINS, MOMENTS, bin_edges

TIME_UNITS = "nanoseconds since 1970-01-01"
NOT_A_TIME = int(np.iinfo(np.int64).min)
# Arrays over (time, channel) are written by the driver, a commit at a time; their chunks span this many shards, so
# that there are few objects and a commit rewrites little.
_SHARDS_PER_TABLE_CHUNK = 16


def group_path(year: int) -> str:
    """Return the path of a year's group below its product's group."""
    return f"{year}"


def image_units(recipe: Recipe, channel: str) -> str:
    """Return the unit of a channel's values as text."""
    unit = recipe.contents.channels[channel].unit
    if recipe.contents.kind == "series" or recipe.contents.channels[channel].symmetric:
        return unit
    return f"{unit} per source pixel" if recipe.grid.convention == "mean" else f"{unit} per pixel"


def product_attributes(plan: Plan, calibration: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a product's group: recipe, plan, software and calibration."""
    recipe = plan.recipe
    software = {name: version(name) for name in ("sdoml-dist", "numpy", "zarr", "icechunk", "astropy", "numba")}
    return {
        "Conventions": "CF-1.11",
        "title": recipe.name,
        "product": recipe.product,
        "recipe": recipe.model_dump(mode="json"),
        "fingerprint": recipe.fingerprint,
        "plan_id": plan.plan_id,
        "calibration": calibration,
        "calibrations": {str(calibration_id(recipe, calibration)): calibration_terms(recipe, calibration)},
        "software": software | {"python": platform.python_version()},
        "time_scale": "UTC",
        "references": recipe.contents.references,
    }


def ensure_template(product: zarr.Group, plan: Plan) -> None:
    """Create the arrays of every year of the plan that are not there yet.

    Arrays span their whole year, so that extending a dataset never resizes anything.
    """
    for year in plan.years():
        if group_path(year) not in product:
            _create_year(product, plan.recipe, year)


def _create_year(product: zarr.Group, recipe: Recipe, year: int) -> None:
    group = product.create_group(group_path(year))
    slots, channels, pixels = year_slots(year, recipe.cadence), recipe.channels, recipe.grid.pixels
    shard = recipe.shard_slots
    zstd = [BloscCodec(cname="zstd", clevel=recipe.chunking.compression_level, shuffle=BloscShuffle.bitshuffle)]
    text = [BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.noshuffle)]

    time = group.create_array("time", shape=(slots,), chunks=(slots,), dtype="i8", dimension_names=("time",))
    time[:] = np.arange(slots, dtype="i8") * recipe.cadence
    time.attrs.update(
        units=f"seconds since {year}-01-01", calendar="proleptic_gregorian", standard_name="time",
        comment="UTC; days have 86400 s, so a leap second shares the slot of the second before it",
    )  # fmt: skip
    names = group.create_array(
        "channel", shape=(len(channels),), chunks=(len(channels),), dtype="string", dimension_names=("channel",)
    )
    names[:] = np.array(channels, dtype=object)

    images = recipe.contents.kind == "images"
    for name in channels:
        spec = recipe.contents.channels[name]
        if images:
            array = group.create_array(
                name, shape=(slots, pixels, pixels), chunks=(1, pixels, pixels), shards=(shard, pixels, pixels),
                dtype="f4", fill_value=np.nan, compressors=zstd, dimension_names=("time", "y", "x"),
            )  # fmt: skip
            comment = "NaN where there is no data; solar north up, Sun centre in the middle of the image"
            group.require_group("histogram").create_array(
                name, shape=(slots, BINS), chunks=(shard, BINS), dtype="u4", fill_value=0, compressors=zstd,
                dimension_names=("time", "bin"),
            )  # fmt: skip
        else:
            array = group.create_array(
                name, shape=(slots,), chunks=(shard,), dtype="f4", fill_value=np.nan, compressors=zstd,
                dimension_names=("time",),
            )  # fmt: skip
            comment = "mean of the samples in the minute that begins at the slot's time; NaN where there is none"
        array.attrs.update(
            units=image_units(recipe, name), long_name=spec.long_name, comment=comment, **spec.attributes,
            **({"convention": recipe.grid.convention} if images else {}),
        )  # fmt: skip
    for bundle in recipe.bundles:
        headers = group.require_group("headers").create_array(
            bundle.name, shape=(slots,), chunks=(shard,), dtype="string", fill_value="", compressors=text,
            dimension_names=("time",),
        )  # fmt: skip
        headers.attrs.update(
            comment="JSON per frame: 'source' it came from, 'header' with every keyword, 'detail' where it is not ok"
        )
    if images:
        edges = group.create_array("histogram/edges", shape=(BINS + 1,), chunks=(BINS + 1,), dtype="f8",
                                   dimension_names=("edge",))  # fmt: skip
        edges[:] = bin_edges()

    table = {"shape": (slots, len(channels)), "chunks": (shard * _SHARDS_PER_TABLE_CHUNK, len(channels)),
             "dimension_names": ("time", "channel"), "compressors": zstd}  # fmt: skip
    status = group.create_array("status", dtype="u1", fill_value=int(FrameStatus.PENDING), **table)
    status.attrs.update(
        long_name="what became of each frame",
        flag_values=[int(code) for code in FrameStatus],
        flag_meanings=" ".join(code.label for code in FrameStatus),
    )
    keywords = group.require_group("keywords")
    for name, keyword in recipe.contents.keywords.items():
        array = keywords.create_array(name, dtype=keyword.dtype, fill_value=keyword.fill, **table)
        attributes = {"long_name": keyword.description}
        if keyword.is_time:
            attributes |= {"units": TIME_UNITS, "calendar": "proleptic_gregorian", "time_scale": "UTC"}
        elif keyword.unit:
            attributes["units"] = keyword.unit
        array.attrs.update(attributes)
        array.attrs["_FillValue" if keyword.is_time else "missing"] = (
            NOT_A_TIME if keyword.is_time else str(keyword.fill)
        )
    if not images:
        return
    moments = group.require_group("moments")
    for name, (dtype, meaning) in MOMENTS.items():
        fill = np.nan if dtype.startswith("f") else 0
        moments.create_array(name, dtype=dtype, fill_value=fill, **table).attrs.update(long_name=meaning)
