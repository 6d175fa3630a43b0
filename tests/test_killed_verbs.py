"""The crash law for what is made of datasets: exports, latents, images; killed, they are completed by the same command."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sdoml_dist.errors import ExitCode
from tests.denoising_data import make
from tests.denoising_data import recipe as magnetograms
from tests.test_apply import config, saved
from tests.test_build import contents, same
from tests.test_crash import done_frames, end_leftovers, finish, write_recipe
from tests.test_losses import alone
from tests.untrained import CHANNELS, untrained

# As sdoml_dist.atomic names what is not whole yet.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}$")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sdoml_dist", *map(str, arguments), "--cpus", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def interrupted(run: subprocess.Popen[str], came: Callable[[], bool]) -> None:
    """Kill a worker and then the driver, once something has come."""
    deadline = time.monotonic() + 300
    while not came():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(run.pid).children(recursive=True)
    workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
    for worker in workers[:1]:
        worker.kill()
    time.sleep(0.5)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    end_leftovers(children)


def digests(folder: Path) -> dict[str, str]:
    """Return the sums of all files by path, but for those that a dead worker was writing."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    whole = {name: path for name, path in found.items() if not TEMPORARY.search(name)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in whole.items()}


@pytest.fixture(scope="module")
def suns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a day of two channels."""
    folder = tmp_path_factory.mktemp("suns")
    alone(
        write_recipe(
            folder, "d", period={"start": "2011-02-10", "end": "2011-02-11"}, cadence="1h", channels=CHANNELS,
            grid={"pixels": 128}, source={"kind": "simulator", "simulation": {"pixels": 256}}, chunking={"shard_slots": 6},
        )
    )  # fmt: skip
    return folder / "d"


def test_a_killed_export(suns: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--chunk-frames", "1"]
    code, _, err = finish(start("export", suns, whole, *options))
    assert code == ExitCode.COMPLETE, err
    interrupted(start("export", suns, cut, *options), lambda: len(list(cut.rglob("*.0.0"))) >= 3)
    assert not list(cut.rglob(".zattrs"))
    code, _, err = finish(start("export", suns, cut, *options))
    assert code == ExitCode.COMPLETE, err
    assert "resumed:" in err
    assert digests(cut) == digests(whole)


def test_a_killed_encoding_and_decoding(suns: Path, tmp_path: Path) -> None:
    model = untrained(tmp_path, str(suns))
    latents = {name: tmp_path / f"{name}-latents" for name in ("whole", "cut")}
    options = ["--rows", "1"]
    code, _, err = finish(start("encode", model, suns, latents["whole"], *options))
    assert code == ExitCode.COMPLETE, err
    run = start("encode", model, suns, latents["cut"], *options)
    interrupted(run, lambda: len(list(latents["cut"].rglob("*.parquet"))) >= 3)
    code, _, err = finish(start("encode", model, suns, latents["cut"], *options))
    assert code == ExitCode.COMPLETE, err
    assert "resumed:" in err
    assert digests(latents["cut"]) == digests(latents["whole"])

    made = {name: tmp_path / f"{name}-images" for name in ("whole", "cut")}
    options = ["--checkpoint", str(model), "--shard-slots", "2", "--group", "2"]
    code, _, err = finish(start("decode", latents["whole"], made["whole"], *options))
    assert code == ExitCode.COMPLETE, err
    interrupted(start("decode", latents["whole"], made["cut"], *options), lambda: done_frames(str(made["cut"])) > 0)
    assert done_frames(str(made["cut"])) < done_frames(str(made["whole"]))
    code, _, err = finish(start("decode", latents["whole"], made["cut"], *options))
    assert code == ExitCode.COMPLETE, err
    same(contents(str(made["whole"])), contents(str(made["cut"])))


def test_an_encoding_that_is_told_to_stop(suns: Path, tmp_path: Path) -> None:
    model, latents = untrained(tmp_path, str(suns)), tmp_path / "latents"
    command = ("encode", model, suns, latents, "--rows", "1")
    run = start(*command)
    deadline = time.monotonic() + 300
    while len(list(latents.rglob("*.parquet"))) < 3:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    code, _, err = finish(run)
    assert code == ExitCode.STOPPED, err
    assert "Stopped by SIGTERM after" in err
    before = digests(latents)
    written = [name for name in before if name.endswith(".parquet")]
    assert 3 <= len(written) < 24
    code, _, err = finish(start(*command))
    assert code == ExitCode.COMPLETE, err
    assert f"resumed: {len(written)} units there" in err
    after = digests(latents)
    assert len([name for name in after if name.endswith(".parquet")]) == 24
    assert {name: after[name] for name in written} == {name: before[name] for name in written}


def test_a_killed_application(tmp_path: Path) -> None:
    store = tmp_path / "d"
    make(magnetograms(store, "hmi_45s", pixels=64, hours=6))
    model = saved(tmp_path / "run" / "checkpoint_00000001", config(store, tmp_path))
    whole, cut, options = tmp_path / "whole", tmp_path / "cut", ["--shard-slots", "1", "--group", "2"]
    code, _, err = finish(start("apply", model, store, whole, *options))
    assert code == ExitCode.COMPLETE, err
    interrupted(start("apply", model, store, cut, *options), lambda: done_frames(str(cut)) > 0)
    assert done_frames(str(cut)) < 6
    code, _, err = finish(start("apply", model, store, cut, *options))
    assert code == ExitCode.COMPLETE, err
    same(contents(str(whole)), contents(str(cut)))
