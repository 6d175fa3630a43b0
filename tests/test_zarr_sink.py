"""The sink of what networks make: whole shards, a commit per group, and nothing made twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdoml_dist
from sdoml_dist.engine.cluster import ray
from sdoml_dist.engine.pool import PoolSize
from sdoml_dist.engine.zarr_sink import ShardActor, ZarrSink, write_shards
from sdoml_dist.errors import Stopped, StoreError, UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_base import Period, Store
from sdoml_dist.recipe_sources import NetworkConfig
from sdoml_dist.report.validate import validate
from sdoml_dist.solar.status import FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.lease import Lease
from sdoml_dist.store.made import Output, Shard, ShardTask, made_recipes, nominal_frames, slot_period, write_shard
from sdoml_dist.store.repository import Ledger

PIXELS, CADENCE = 16, 21600
TIMES = np.arange("2011-12-31T00:00", "2012-01-02T06:00", 360, "datetime64[m]").astype("datetime64[ns]")
OK, MISSING = int(FrameStatus.OK), int(FrameStatus.MISSING_NO_FRAME)


def recipes(folder: Path, checkpoint: str = "0123456789abcdef", **changes: Any) -> list[Recipe]:
    source = NetworkConfig(
        kind="network", experiment="latent-space", checkpoint=checkpoint, url="latents", snapshot="S", channels=("171A",),
        pixels=PIXELS,
    )  # fmt: skip
    given: dict[str, Any] = {
        "name": "made", "period": slot_period(TIMES, CADENCE), "cadence_s": CADENCE, "pixels": PIXELS,
        "solar_radius_arcsec": 976.0, "shard_slots": 4,
    }  # fmt: skip
    return made_recipes(Store(url=str(folder / "made")), ("171A", "304A", "Bx", "By", "Bz"), source, **given | changes)


def value(year: int, slots: np.ndarray, channel: str) -> np.ndarray:
    """Return the images that are expected, shape (frames, y, x)."""
    first = (year % 100) * 1e4 + slots + len(channel) / 8 + ord(channel[1]) / 1024
    return (first[:, None, None] + np.arange(PIXELS * PIXELS).reshape(PIXELS, PIXELS) / 4096).astype(np.float32)


def shards(task: ShardTask, made: dict[str, Recipe]) -> Iterator[Shard]:
    """Make what is expected; every third slot of a year is missing."""
    there = task.slots % 3 != 0
    for product, unit in task.units:
        channels = made[product].bundle(unit.bundle).channels
        status = np.where(there, OK, MISSING).astype(np.uint8)[:, None].repeat(len(channels), 1)
        values = np.stack([value(task.year, task.slots, name) for name in channels])
        keywords, texts = nominal_frames(made[product], unit, task.slots, there, {"by": "a test"})
        yield Shard(product, unit, task.slots, values, status, keywords, texts)


class Maker(ShardActor):
    """Makes what is expected, and fails in the year after `last`."""

    def __init__(self, made: dict[str, Recipe], last: int, brake: Any) -> None:
        super().__init__(brake)
        self.made, self.last = made, last

    def make(self, task: ShardTask) -> Iterator[Shard]:
        if task.year > self.last:
            raise UsageError(f"no network for {task.year}")
        yield from shards(task, self.made)


class Stopper(Maker):
    """Makes one task, and then has its driver stopped by a signal."""

    def __init__(self, made: dict[str, Recipe], driver: int, brake: Any) -> None:
        super().__init__(made, 9999, brake)
        self.driver = driver

    def make(self, task: ShardTask) -> Iterator[Shard]:
        yield from shards(task, self.made)
        os.kill(self.driver, signal.SIGUSR1)
        while ray.get(self.brake.begin.remote("probe")) == "go":
            ray.get(self.brake.end.remote("probe"))
            time.sleep(0.1)


def check(url: str) -> None:
    """Compare a finished dataset with what is expected."""
    ds = sdoml_dist.open_dataset(url, product="aia")
    np.testing.assert_array_equal(ds.time.values, TIMES)
    for year in (2011, 2012):
        inside = ds.time.dt.year.values == year
        slots = np.flatnonzero(np.isin(slot_times(year, CADENCE), TIMES))
        there = slots % 3 != 0
        np.testing.assert_array_equal(ds.status.values[inside], np.where(there, OK, MISSING)[:, None].repeat(2, 1))
        found = ds["304A"].values[inside]
        np.testing.assert_array_equal(found[there], value(year, slots, "304A")[there])
        assert np.isnan(found[~there]).all()
    field = sdoml_dist.open_dataset(url, product="hmi")
    slots = np.flatnonzero(np.isin(slot_times(2012, CADENCE), TIMES))
    last = field.isel(time=-1)
    for name in ("Bx", "By", "Bz"):
        np.testing.assert_array_equal(last[name].values, value(2012, slots[-1:], name)[0])
    assert validate(url).valid, validate(url).text()
    assert sdoml_dist.header(url, "171A", str(TIMES[-1]))["made"]["by"] == "a test"
    seen, made = (sdoml_dist.to_map(ds, name, str(TIMES[-1])) for name in ("171A", "304A"))
    assert seen.data.shape == (PIXELS, PIXELS)
    # Nobody can take for an observation what was made of another channel, nor forget it by saving it.
    assert (seen.instrument, made.instrument) == ("AIA", "latent-space")
    assert all("made by sdoml_dist's network latent-space" in one.meta["history"] for one in (seen, made))
    np.testing.assert_allclose(ds.R_SUN.values[-1], 976 / 2457.6 * PIXELS)


def test_shards_are_written_whole_and_committed_together(tmp_path: Path) -> None:
    made = recipes(tmp_path)
    output = Output(made)
    tasks = output.tasks(TIMES)
    # Two shards of four slots at the end of 2011 and the beginning of 2012, and one slot more.
    assert [(task.name, task.slots.size, len(task.units)) for task in tasks] == [
        ("2011/364", 4, 3), ("2012/000", 4, 3), ("2012/001", 1, 3),
    ]  # fmt: skip
    receipts = []
    for task in tasks[:2]:
        for shard in shards(task, output.recipes):
            (again,) = Shard.of(shard.block())
            receipts.append((shard.product, write_shard(output.fork_bytes, output.recipes[shard.product], again)))
    assert len(output.tasks(TIMES)) == 3  # nothing is visible before the commit
    output.commit(receipts)
    assert [task.name for task in output.tasks(TIMES)] == ["2012/001"]
    assert output.tasks(TIMES[:-1]) == []  # slots that nothing is known of stay pending
    (last,) = output.tasks(TIMES)
    bad = next(shards(last, output.recipes))
    assert bad.values is not None
    bad.values = bad.values[:, :, :8]
    with pytest.raises(ValueError, match="do not fit"):
        write_shard(output.fork_bytes, output.recipes["aia"], bad)
    # A fork that was taken before the commit still serves.
    output.commit(
        [
            (one.product, write_shard(output.fork_bytes, output.recipes[one.product], one))
            for one in shards(last, output.recipes)
        ]
    )
    output.finish()
    check(str(tmp_path / "made"))


def test_another_network_layout_or_dataset_is_refused(tmp_path: Path, make_recipe: Any) -> None:
    Output(recipes(tmp_path))
    with pytest.raises(StoreError, match="checkpoint"):
        Output(recipes(tmp_path, checkpoint="f" * 16))
    with pytest.raises(StoreError, match="shard_slots"):
        Output(recipes(tmp_path, shard_slots=8))
    longer = recipes(tmp_path, period=Period(start="2011-12-31T00:00", end="2012-01-04"))
    assert len(Output(longer).tasks(TIMES)) == 3
    with pytest.raises(UsageError, match="No product has the channels nothing"):
        made_recipes(Store(url="x"), ("nothing",), longer[0].source, name="a", period=longer[0].period, cadence_s=60,
                     pixels=16, solar_radius_arcsec=976.0)  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(UsageError, match="made by a network"):
        make_source(longer[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pool_writes_groups_and_goes_on(ray_cluster: Any, tmp_path: Path) -> None:
    made = recipes(tmp_path)
    store, size = made[0].store, PoolSize(1, 1, 0.5, 100_000_000)
    with Lease(store, "test") as lease:
        output = Output(made)
        with pytest.raises(UsageError, match="no network for 2012"):
            write_shards(output, output.tasks(TIMES), Maker, (output.recipes, 2011), size, lease, group=1)
        # The group before the one that failed is there.
        output = Output(made)
        left = output.tasks(TIMES)
        assert [task.year for task in left] == [2012, 2012]
        # A signal: what is under way is finished and committed, the rest is not begun.
        with pytest.raises(Stopped, match="SIGUSR1 after 3 shards"):
            write_shards(output, left, Stopper, (output.recipes, os.getpid()), size, lease, group=8)
        left = output.tasks(TIMES)
        assert len(left) == 1
        written = write_shards(output, left, Maker, (output.recipes, 2012), size, lease, group=8)
        assert (written.shards, written.commits) == (3, 1)
        output.finish()
        assert output.tasks(TIMES) == []
    check(store.url)


def test_a_sink_takes_no_session_to_a_worker(tmp_path: Path) -> None:
    sink = ZarrSink(Output(recipes(tmp_path)))
    state = sink.__getstate__()
    assert state["_output"] is None
    assert not any(isinstance(value, Ledger | Output) for value in state.values())
