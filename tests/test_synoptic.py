"""Level-1.5 frames of the synoptic tree, from an HTTP server on loopback through the whole pipeline to a dataset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import sdoml_dist
from sdoml_dist.engine.run import build
from sdoml_dist.errors import ExitCode
from sdoml_dist.recipe_file import load_recipe
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.scene import SunModel
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.simulator import level1_frame, planned_frame
from tests.servers.jsoc import Jsoc, serve

START = np.datetime64("2011-02-15T00:00", "ns")
STEP = np.timedelta64(360, "s")
PIXELS, SCALE = 256, 9.6
CHANNELS = ("171A", "304A")


def synoptic_file(channel: str, slot: int, **keywords: Any) -> bytes:
    """Return a frame as the synoptic product has it: registered, float counts, sub-field of 2.4 arcsec binned by 4."""
    time = START + slot * STEP
    config = SimulationConfig(pixels=64, jitter_s=0)
    _, header = level1_frame(config, planned_frame(config, channel, time))
    rsun = ephemeris(time).rsun_obs_arcsec
    first, step = -(PIXELS - 1) / 2 * SCALE / rsun, SCALE / rsun
    emission = SunModel(0).render(channel, time, (PIXELS, PIXELS), (first, step, 0.0, first, 0.0, step))
    header |= {"LVL_NUM": 1.5, "CRPIX1": PIXELS / 2 + 0.5, "CRPIX2": PIXELS / 2 + 0.5, "CDELT1": SCALE, "CDELT2": SCALE,
               "CROTA2": 0.0, "RSUN_OBS": rsun}  # fmt: skip
    header |= keywords
    header.pop("BLANK", None)
    unit = fits.PrimaryHDU(emission * np.float32(header["EXPTIME"]))
    for name, value in header.items():
        unit.header[name] = value
    buffer = io.BytesIO()
    unit.writeto(buffer, output_verify="silentfix")
    return buffer.getvalue()


def tree_path(channel: str, slot: int) -> str:
    text = str((START + slot * STEP).astype("datetime64[m]"))
    name = f"AIA{text[:10].replace('-', '')}_{text[11:].replace(':', '')}_{int(channel[:-1]):04d}.fits"
    return f"/data/aia/synoptic/{text[:10].replace('-', '/')}/H{text[11:13]}00/{name}"


@pytest.mark.usefixtures("ray_cluster")
def test_the_synoptic_tree_becomes_a_dataset(tmp_path: Path) -> None:
    server = Jsoc()
    for channel in CHANNELS:
        for slot in range(10):
            server.tree[tree_path(channel, slot)] = synoptic_file(channel, slot)
    del server.tree[tree_path("171A", 2)]
    server.tree[tree_path("171A", 3)] = server.tree[tree_path("171A", 3)][:9000]
    server.tree[tree_path("304A", 4)] = synoptic_file("304A", 4, QUALITY=1 << 12)
    with serve(server) as running:
        recipe = load_recipe(
            "sdoml-v2",
            [
                "period={start: 2011-02-15T00:00, end: 2011-02-15T01:00}", "channels=[171A, 304A]", "grid.pixels=64",
                f"source.url={running.url}/data/aia/synoptic", f"source.pixels={PIXELS}", "source.network.retries=1",
                "source.network.backoff_s=0.01", "calibration.degradation=null", f"store.url={tmp_path / 'd'}",
                "chunking.shard_slots=5",
            ],
        )  # fmt: skip
        assert build(recipe).exit_code is ExitCode.FRAMES_FAILED
    table = sdoml_dist.frames(recipe.store.url)
    reasons = {(row.channel, (row.time - START) // STEP): row.reason for row in table.itertuples()}
    odd = {key: reason for key, reason in reasons.items() if reason != "ok"}
    assert odd == {("171A", 2): "missing_at_source", ("171A", 3): "failed_read", ("304A", 4): "rejected_quality"}
    ds = sdoml_dist.open_dataset(recipe.store.url)
    for channel in CHANNELS:
        found = ds[channel].sel(time=START).values
        truth = SunModel(0).truth(channel, START, 64)
        assert np.median(np.abs(found / truth - 1)) < 5e-3
        assert found.sum() == pytest.approx(truth.sum(), rel=2e-3)
    assert float(ds.EXPTIME.sel(channel="171A", time=START)) == 2.0
