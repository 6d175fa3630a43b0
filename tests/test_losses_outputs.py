"""A host of the cluster loses power while something is made of a dataset: nothing has to be done, and nothing is different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sdoml_dist.errors import ExitCode
from tests.denoising_data import make
from tests.denoising_data import recipe as magnetograms
from tests.servers.hosts import wait_until
from tests.test_apply import config, saved
from tests.test_build import contents, same
from tests.test_crash import done_frames, finish
from tests.test_killed_verbs import digests, suns  # noqa: F401 - suns is a fixture
from tests.test_losses import World, whole, world  # noqa: F401 - fixtures
from tests.untrained import untrained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(world: World, *command: object) -> None:  # noqa: F811
    code, _, err = finish(world.start(*map(str, command)), 500)
    assert code == ExitCode.COMPLETE, err


def run_and_lose(world: World, came: Callable[[], bool], *command: object) -> None:  # noqa: F811
    """Take the power of a host once something has come, and see the command through."""
    driver = world.start(*map(str, command))
    wait_until(came, driver)
    world.hosts.power_off(3)
    code, _, err = finish(driver, 500)
    assert code == ExitCode.COMPLETE, err


def test_an_export(world: World, suns: Path, tmp_path: Path) -> None:  # noqa: F811
    first, second, options = tmp_path / "first", tmp_path / "second", ["--chunk-frames", "1"]
    run(world, "export", suns, first, *options)
    run_and_lose(world, lambda: len(list(second.rglob("*.0.0"))) >= 3, "export", suns, second, *options)
    assert len([name for name in digests(first) if name.endswith(".0.0")]) >= 48
    assert digests(second) == digests(first)


def test_an_encoding_and_a_decoding(world: World, suns: Path, tmp_path: Path) -> None:  # noqa: F811
    model = untrained(tmp_path, str(suns))
    first, second, options = tmp_path / "first", tmp_path / "second", ["--rows", "1"]
    run(world, "encode", model, suns, first, *options)
    run_and_lose(world, lambda: len(list(second.rglob("*.parquet"))) >= 3, "encode", model, suns, second, *options)
    assert len([name for name in digests(first) if name.endswith(".parquet")]) == 24
    assert digests(second) == digests(first)

    world.hosts.revive((0, 1, 1, 1))
    images = {name: tmp_path / f"{name}-images" for name in ("first", "second")}
    options = ["--checkpoint", str(model), "--shard-slots", "1", "--group", "2"]
    run(world, "decode", first, images["first"], *options)
    run_and_lose(world, lambda: done_frames(str(images["second"])) > 0, "decode", first, images["second"], *options)
    assert done_frames(str(images["first"])) == 48
    same(contents(str(images["first"])), contents(str(images["second"])))


def test_an_application(world: World, tmp_path: Path) -> None:  # noqa: F811
    store = tmp_path / "d"
    make(magnetograms(store, "hmi_45s", pixels=64, hours=12))
    model = saved(tmp_path / "run" / "checkpoint_00000001", config(store, tmp_path))
    first, second, options = tmp_path / "first", tmp_path / "second", ["--shard-slots", "1", "--group", "1"]
    run(world, "apply", model, store, first, *options)
    run_and_lose(world, lambda: done_frames(str(second)) > 0, "apply", model, store, second, *options)
    assert done_frames(str(first)) == 12
    same(contents(str(first)), contents(str(second)))
