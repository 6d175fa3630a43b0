"""The arrays of a region, created before any value."""

from __future__ import annotations

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle

from sdoml_dist.emergence_plan import QUANTITIES, EmergencePlan, RegionAxes
from sdoml_dist.emergence_recipe import RegionEntry
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.tiles import GRID

GROUP = "emergence"
"""The group of the dataset."""
KEYWORDS = ("T_OBS", "CRLN_OBS", "CRLT_OBS", "DSUN_OBS", "RSUN_OBS", "CROTA2", "OBS_VR", "OBS_VW", "OBS_VN", "LONGITUDE",
            "MU", "VALID")  # fmt: skip
"""Columns kept of every tracked frame: T_OBS in seconds after the time of the grid; the Carrington longitude of the
patch's centre in degrees; the cosine of the angle between line of sight and vertical there; the valid share of pixels."""
_UNITS = {"V": "m/s", "M": "G", "Ic": "DN/s"}
_MEANING = {"V": "line-of-sight velocity, positive away from SDO", "M": "line-of-sight magnetic field, positive towards SDO",
            "Ic": "continuum intensity at 6173 Angstrom"}  # fmt: skip


def create_region(group: zarr.Group, plan: EmergencePlan, axes: RegionAxes) -> None:
    """Create all arrays of a region."""
    recipe = plan.recipe
    layout, pixels = recipe.layout, recipe.tracking.pixels
    region = group.create_group(axes.region.name)
    region.attrs.update(
        RegionEntry.of(axes.region).model_dump(mode="json")
        | {"projection": recipe.tracking.projection, "scale_deg": recipe.tracking.scale_deg}
        | {name: [getattr(axes, name).first, getattr(axes, name).count] for name in ("frames", "windows", "snapshots")}
    )
    zstd = [BloscCodec(cname="zstd", clevel=layout.compression_level, shuffle=BloscShuffle.bitshuffle)]
    text = [BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.noshuffle)]
    tile = layout.tile_pixels
    for quantity in QUANTITIES:
        count, size = axes.axis(quantity).count, plan.block_size(quantity)
        part = region.create_group(quantity)
        _times(part, plan.times(quantity, axes.axis(quantity)))
        values = part.create_array(
            quantity, shape=(count, pixels, pixels), shards=(size, pixels, pixels),
            # Power reads the whole history of a tile; of the others one looks at whole maps.
            chunks=(size, tile, tile) if quantity == "V" else (1, pixels, pixels),
            dtype="f4", fill_value=np.nan, compressors=zstd, dimension_names=("time", "y", "x"),
        )  # fmt: skip
        values.attrs.update(
            units=_UNITS[quantity], long_name=_MEANING[quantity], comment="rows go north, columns west; NaN: no data"
        )
        keywords = part.create_array(
            "keywords", shape=(count, len(KEYWORDS)), chunks=(size, len(KEYWORDS)), dtype="f8", fill_value=np.nan,
            compressors=zstd, dimension_names=("time", "keyword"),
        )  # fmt: skip
        keywords.attrs["names"] = list(KEYWORDS)
        part.create_array(
            "record", shape=(count,), chunks=(size,), dtype="string", fill_value="", compressors=text,
            dimension_names=("time",),
        ).attrs["comment"] = "JSON per frame: 'source' it came from, 'detail' where it is not ok"  # fmt: skip
        _status_array(part, (count,), ("time",))
        if quantity != "V":
            part.create_array(
                "tiles",
                shape=(count, GRID**2),
                chunks=(size, GRID**2),
                dtype="f8",
                fill_value=np.nan,
                compressors=zstd,
                dimension_names=("time", "tile"),
            ).attrs.update(  # fmt: skip
                units=_UNITS[quantity],
                long_name="mean over each tile, row by row" + (" of the absolute value" if quantity == "M" else ""),
            )
    _create_power(region.create_group("power"), plan, axes, zstd)
    _create_timelines(region.create_group("timelines"), plan, axes)


def _create_power(part: zarr.Group, plan: EmergencePlan, axes: RegionAxes, zstd: list[BloscCodec]) -> None:
    recipe = plan.recipe
    pixels, tile, size = recipe.tracking.pixels, recipe.layout.tile_pixels, recipe.layout.segment_windows
    bands, count = recipe.power.bands_millihertz, axes.windows.count
    _times(part, plan.window_times(axes))
    _bands(part, bands)
    part.create_array(
        "power", shape=(count, len(bands), pixels, pixels), shards=(size, len(bands), tile, tile),
        chunks=(1, 1, tile, tile), dtype="f4", fill_value=np.nan, compressors=zstd,
        dimension_names=("time", "band", "y", "x"),
    ).attrs.update(  # fmt: skip
        long_name="acoustic power in the band", convention=recipe.power.convention,
        units="(m/s)^2 s per bin, summed over bins" if recipe.power.convention == "solared" else "(m/s)^2",
    )  # fmt: skip
    part.create_array(
        "duty_cycle", shape=(count, pixels, pixels), shards=(size, tile, tile), chunks=(1, tile, tile), dtype="f4",
        fill_value=0.0, compressors=zstd, dimension_names=("time", "y", "x"),
    ).attrs["long_name"] = "share of the window's differences in time that are there"  # fmt: skip
    per_axis = plan.tiles_per_axis
    _status_array(part, (plan.segments(axes), per_axis, per_axis), ("segment", "row", "column"))


def _create_timelines(part: zarr.Group, plan: EmergencePlan, axes: RegionAxes) -> None:
    recipe = plan.recipe
    count, tiles, bands = axes.windows.count, GRID**2, recipe.power.bands_millihertz
    _times(part, plan.window_times(axes))
    _bands(part, bands)
    for name, shape, names, unit in (
        ("power", (len(bands), tiles, count), ("band", "tile", "time"), "as in the group power"),
        ("flux", (tiles, count), ("tile", "time"), "G"),
        ("intensity", (tiles, count), ("tile", "time"), "DN/s"),
    ):
        part.create_array(
            name, shape=shape, chunks=shape, dtype="f8", fill_value=np.nan, dimension_names=names
        ).attrs["units"] = unit  # fmt: skip
    _status_array(part, (1,), ("region",))


def _times(part: zarr.Group, times: np.ndarray) -> None:
    array = part.create_array("time", shape=times.shape, chunks=times.shape, dtype="i8", dimension_names=("time",))
    array[:] = times.astype("datetime64[ns]").astype(np.int64)
    array.attrs.update(
        units="nanoseconds since 1970-01-01", calendar="proleptic_gregorian", standard_name="time",
        comment="UTC; the grid is even in TAI",
    )  # fmt: skip


def _bands(part: zarr.Group, bands: tuple[tuple[float, float], ...]) -> None:
    array = part.create_array("band_edges", shape=(len(bands), 2), chunks=(len(bands), 2), dtype="f8",
                              dimension_names=("band", "edge"))  # fmt: skip
    array[:] = np.array(bands)
    array.attrs["units"] = "mHz"


def _status_array(part: zarr.Group, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    array = part.create_array("status", shape=shape, chunks=shape, dtype="u1", fill_value=int(FrameStatus.PENDING),
                              dimension_names=names)  # fmt: skip
    array.attrs.update(
        flag_values=[int(code) for code in FrameStatus], flag_meanings=" ".join(code.label for code in FrameStatus)
    )
