"""sdoml far-side on whole folders: every set is accounted for, good ones are written, and the same command goes on."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from astropy.io import fits
from safetensors.torch import save_file
from sunpy.map import Map

from sdoml_dist.cli import main
from sdoml_dist.engine import far_side as driver
from sdoml_dist.errors import ExitCode
from sdoml_dist.experiments.far_side import FarSide
from sdoml_dist.experiments.far_side_euvi import translate
from sdoml_dist.pipelines.far_side import FarSideNetwork, SetAnswer, SetTranslator
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.euvi import read_euvi
from sdoml_dist.sources.euvi_files import look_into_folder
from sdoml_dist.sources.euvi_simulator import Spacecraft, euvi_fits
from sdoml_dist.store.far_side_folder import FarSideFolder
from sdoml_dist.store.reader import open_products
from tests.test_crash import end_leftovers
from tests.translation_suns import SIZE, write_dataset

START = np.datetime64("2011-03-05T00:10:00", "ns")
EUV = (304, 195, 171)


def saved(folder: Path, version: int = 2, store: str = "nowhere", snapshot: str = "none", seed: int = 0) -> Path:
    """Write a checkpoint of a small network that has learned nothing."""
    config = {
        "experiment": "far-side",
        "data": {"store": {"url": store}, "size": SIZE, "cadence": 86400, "brightest": 200.0},
        "network": {"version": version, "generator": "pix2pixhd", "narrowing": 16, "blocks": 1, "stages": 2},
        "training": {"steps": 4, "global_batch": 4, "micro_batch": 2},
    }  # fmt: skip
    prepared = {"snapshot": snapshot, "pixels": SIZE}
    torch.manual_seed(seed)
    network = FarSide({"config": config, "prepared": prepared}).models()["generator"]
    place = folder / "checkpoint_00000007"
    place.mkdir(parents=True)
    save_file(network.state_dict(), place / "generator.safetensors")
    about = {"experiment": "far-side", "step": 7, "config": config, "prepared": prepared, "metrics": {}}
    (place / "checkpoint.json").write_text(json.dumps(about))
    return folder


def write_set(folder: Path, hours: int, who: Spacecraft = "STEREO_A", wavelengths: tuple[int, ...] = EUV) -> list[Path]:
    """Write frames a minute apart from each other, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, wavelength in enumerate(wavelengths):
        moment = START + np.timedelta64(60 * hours + number, "m")
        path = folder / f"{who}_{hours:04d}_{wavelength}.fts"
        path.write_bytes(euvi_fits(SimulationConfig(seed=3), who, wavelength, moment, 64))
        paths.append(path)
    return paths


def darkened(path: Path) -> None:
    """Replace the image of a frame by its bias."""
    with fits.open(io.BytesIO(path.read_bytes())) as file:
        file[0].data = np.full_like(file[0].data, 700)
        file.writeto(path, overwrite=True)


def table(folder: Path, name: str = "sets.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def statuses(folder: Path) -> dict[str, str]:
    return {row["name"]: row["status"] for row in table(folder)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.fits")}


def in_this_process(actor: Any, arguments: tuple[dict[str, Any]], tasks: Any, *_: Any) -> Iterator[SetAnswer]:
    """Do what the pool does without workers, whose start takes seconds."""
    translator = SetTranslator(**arguments[0] | {"output": Store(**arguments[0]["output"])})
    for task in tasks:
        yield translator.make(task)


@pytest.fixture
def far_side(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the verb and return its exit code and what it told: by workers, in this process, or `idle`, where either fails."""

    def run(*arguments: Any, by: str = "this process") -> tuple[int, str]:
        with monkeypatch.context() as patch:
            if by != "workers":
                patch.setattr(driver, "pooled", in_this_process if by == "this process" else None)
                patch.setattr(driver, "connect", lambda _: contextlib.nullcontext())
                patch.setattr(driver, "network_pool", lambda *_, **__: (None, 0))
            code = main(["far-side", *(str(one) for one in arguments)])
        told = capsys.readouterr()
        return code, told.out + told.err

    return run


def test_good_sets_are_made_and_others_say_why(
    ray_cluster: Any, tmp_path: Path, far_side: Callable[..., tuple[int, str]]
) -> None:
    run, frames, output = saved(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields"
    write_set(frames / "a", 0)
    write_set(frames / "b", 0, "STEREO_B")
    lost = write_set(frames, 10, wavelengths=(304, 171))
    corrupt = write_set(frames, 20)[1]
    whole = corrupt.read_bytes()
    corrupt.write_bytes(whole[: len(whole) // 2])
    darkened(write_set(frames, 30)[2])
    write_set(frames, 40, wavelengths=(171,))
    write_set(frames, 50, wavelengths=(284, 304, 195, 171))
    (frames / "none.fts").write_bytes(b"no frame")

    code, told = far_side(run, frames, output, by="workers")
    assert code == ExitCode.FRAMES_FAILED
    assert statuses(output) == {
        "STEREO_A_20110305_001000": "ok", "STEREO_B_20110305_001000": "ok", "STEREO_A_20110305_101000": "incomplete",
        "STEREO_A_20110305_201000": "bad_frame", "STEREO_A_20110306_061000": "no_light",
        "STEREO_A_20110306_161000": "incomplete", "STEREO_A_20110307_021100": "ok",
    }  # fmt: skip
    reasons = {row["name"]: row["reason"] for row in table(output)}
    assert reasons["STEREO_A_20110305_101000"] == "no frame of 193A within 1200 s that can be used"
    assert reasons["STEREO_A_20110306_161000"] == "no frame of 304A, 193A within 1200 s that can be used"
    assert f"193A: {corrupt}: failed_read: the file has only" in reasons["STEREO_A_20110305_201000"]
    assert reasons["STEREO_A_20110306_061000"].startswith("171A of STEREO_A at 2011-03-06T06:12")
    assert "sets: ok 3" in told
    assert (
        "sets: incomplete 2: STEREO_A_20110305_101000: no frame of 193A within 1200 s that can be used (1 more" in told
    )
    assert "files not used: failed_not_fits 1" in told
    assert "3 magnetograms made and 0 there before" in told
    # Every file is in the table, with what it was used for.
    use = {Path(row["path"]).name: (row["status"], row["use"]) for row in table(output, "frames.csv")}
    assert len(use) == len(list(frames.rglob("*.fts")))
    assert use["STEREO_A_0050_284.fts"] == ("ok", "none: the network does not see 211A")
    assert use[lost[0].name] == ("ok", "STEREO_A_20110305_101000")
    assert use["none.fts"] == ("failed_not_fits", "")

    # What is written is what the network makes of the frames, as a map of the spacecraft.
    made = contents(output)
    assert set(made) == {f"{name}_field.fits" for name, status in statuses(output).items() if status == "ok"}
    settings = CalibrationSettings(pixels=SIZE)
    some = [read_euvi((frames / f"b/STEREO_B_0000_{one}.fts").read_bytes(), settings) for one in EUV]
    (field,) = translate(FarSideNetwork(run).trained, [some])
    found = Map(output / "STEREO_B_20110305_001000_field.fits")
    np.testing.assert_allclose(found.data, field.field, rtol=1e-4, atol=1e-2)
    assert found.observer_coordinate.lon.to_value("deg") == pytest.approx(-94.78, abs=0.01)
    assert np.isfinite(found.data).any()

    # Files that have not changed are known, but for those that could not be read.
    known = FarSideFolder(Store(url=str(output))).files()
    assert {Path(path).name for path, _ in known} == set(use) - {"none.fts"}
    assert list(known.values()) == [one for one in look_into_folder(str(frames), settings) if one.status == "ok"]

    # The same command has nothing to do, and says the same.
    again = far_side(run, frames, output, by="nobody")
    assert again[0] == ExitCode.FRAMES_FAILED
    assert "0 magnetograms made and 3 there before" in again[1]
    assert contents(output) == made

    # A frame that was mended, and a magnetogram that was lost: these are made, no other.
    corrupt.write_bytes(whole)
    (output / "STEREO_A_20110305_001000_field.fits").unlink()
    assert "2 magnetograms made and 2 there before" in far_side(run, frames, output)[1]
    mended = contents(output)
    assert {name: mended[name] for name in made} == made
    assert statuses(output)["STEREO_A_20110305_201000"] == "ok"

    # Frames of another folder come beside those that are there.
    write_set(tmp_path / "more", 100)
    assert far_side(run, tmp_path / "more", output)[0] == ExitCode.COMPLETE
    assert len(statuses(output)) == 8
    assert len(table(output, "frames.csv")) == len(use) + 3

    # Other weights make other magnetograms.
    other = saved(tmp_path / "other", seed=1)
    code, told = far_side(other, tmp_path / "more", output)
    assert code == ExitCode.COMPLETE
    assert "1 magnetograms made and 0 there before" in told
    assert contents(output)["STEREO_A_20110309_041000_field.fits"] not in made.values()
    assert far_side(other, tmp_path / "more", output, by="nobody")[0] == ExitCode.COMPLETE


def test_a_run_that_was_broken_off_goes_on(
    tmp_path: Path, far_side: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the tables say when it ends: what is there counts, and what is not there is made."""
    run, frames, output = saved(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields"
    for hours in (0, 10, 20, 30):
        write_set(frames, hours)
    darkened(write_set(frames, 40)[0])

    def killed(answers: Any, *_: Any) -> None:
        for _ in range(2):
            assert next(answers).outcome == "ok"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(driver, "_collect", killed)
        assert far_side(run, frames, output)[0] == ExitCode.STOPPED
    # The table was written before anything was made, and is behind.
    assert set(statuses(output).values()) == {"pending"}
    before = contents(output)
    assert len(before) == 2
    code, told = far_side(run, frames, output)
    assert code == ExitCode.FRAMES_FAILED
    assert "2 magnetograms made and 2 there before" in told
    after = contents(output)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    assert far_side(run, frames, tmp_path / "undisturbed")[0] == ExitCode.FRAMES_FAILED
    assert contents(tmp_path / "undisturbed") == after
    # Tables that somebody has changed or removed are made again, of what is there.
    (output / "frames.csv").unlink()
    (output / "sets.csv").write_text("name,status\nx,ok\n")
    code, told = far_side(run, frames, output)
    assert "0 magnetograms made and 4 there before" in told
    assert sorted(statuses(output).values()) == ["no_light", "ok", "ok", "ok", "ok"]


def test_version_3_makes_the_sets_that_have_a_reference(
    tmp_path: Path, far_side: Callable[..., tuple[int, str]]
) -> None:
    days = np.arange("2011-03-04", "2011-03-07", dtype="datetime64[D]").astype("datetime64[ns]")
    url = write_dataset(tmp_path, days, missing=0)
    snapshot = open_products(url)[0].session.snapshot_id
    run, frames, output = saved(tmp_path / "run", 3, url, snapshot), tmp_path / "euvi", tmp_path / "fields"
    # Longitudes that STEREO-A sees faced Earth 6.7 days before, those of STEREO-B 20 days before, when there was no dataset.
    write_set(frames, 7 * 24)
    write_set(frames, 7 * 24, "STEREO_B")
    # Six days later there is none for STEREO-A either.
    write_set(frames, 13 * 24)
    code, told = far_side(run, frames, output)
    assert code == ExitCode.FRAMES_FAILED
    assert statuses(output) == {
        "STEREO_A_20110312_001000": "ok", "STEREO_B_20110312_001000": "no_reference",
        "STEREO_A_20110318_001000": "no_reference",
    }  # fmt: skip
    assert "There is no reference for STEREO_B at 2011-03-12T00:10" in told
    assert "longitudes faced Earth at 2011-02-19" in told
    header = fits.getheader(output / "STEREO_A_20110312_001000_field.fits")
    assert str(header["HISTORY"]).count("reference SDO 2011-03-05") == 4
    assert "0 magnetograms made and 1 there before" in far_side(run, frames, output, by="nobody")[1]


def test_what_cannot_be_done_at_all_is_refused(tmp_path: Path, far_side: Callable[..., tuple[int, str]]) -> None:
    run, frames, output = saved(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields"
    write_set(frames, 0)
    (frames / "broken.fits").write_bytes(b"")
    curves = tmp_path / "curves.json"
    curves.write_text("[]")
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "checkpoint.json").write_text(json.dumps({"experiment": "latent-space", "step": 1}))
    bare = saved(tmp_path / "bare")
    (bare / "checkpoint_00000007" / "generator.safetensors").unlink()
    for arguments, why in (
        (
            (run, frames, output, "--tolerance", "30s"),
            "No set of 304A, 193A, 171A is whole in .* frames: 304A 1, 193A 1",
        ),
        ((run, frames, output, "--tolerance", "30s"), "1 files cannot be used, the first: .*broken.fits: failed"),
        ((run, frames, output, "--tolerance", "soon"), "a duration is written like"),
        ((run, frames, output, "--matches", curves), "holds no curves"),
        ((run, tmp_path / "nothing", output), "There is no file"),
        ((tmp_path / "alien", frames, output), "a checkpoint of 'latent-space', not of far-side"),
        ((tmp_path / "nowhere", frames, output), "not a checkpoint"),
        ((bare, frames, output), "no weights that can be read"),
    ):
        code, told = far_side(*arguments, by="nobody")
        assert code == ExitCode.USAGE, told
        assert re.search(why, told), told
    assert not output.exists()


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "sdoml_dist",
        "far-side",
        *(str(one) for one in arguments),
        "--cpus",
        "2",
        "--wait",
        "60",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_fields(run: subprocess.Popen[str], output: Path, number: int) -> list[psutil.Process]:
    """Wait until there are so many magnetograms, and return the driver's descendants."""
    deadline = time.monotonic() + 240
    while len(list(output.glob("*.fits"))) < number:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(run.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_a_killed_driver_and_a_signal_change_nothing(tmp_path: Path) -> None:
    """The same command ends with the files of an undisturbed run, bit for bit, and no half file is ever seen."""
    run, frames, output = saved(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields"
    number = 400
    paths = write_set(frames, 0)
    for hours in range(1, number):
        for order, path in enumerate(paths):
            moment = START + np.timedelta64(60 * hours + order, "m")
            with fits.open(io.BytesIO(path.read_bytes())) as file:
                file[0].header["DATE-OBS"] = str(moment.astype("datetime64[ms]"))
                file.writeto(frames / f"{hours:04d}_{EUV[order]}.fts")
    first = start(run, frames, output)
    children = wait_for_fields(first, output, 5)
    next(one for one in children if "MapWorker" in " ".join(one.cmdline())).kill()
    children = wait_for_fields(first, output, 40)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    end_leftovers(children)
    for path in output.glob("*.fits"):
        assert np.isfinite(fits.getdata(path)).any()
    second = start(run, frames, output)
    wait_for_fields(second, output, len(list(output.glob("*.fits"))) + 20)
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=120)
    assert second.returncode == ExitCode.STOPPED, err
    assert "The same command goes on" in err
    before = len(contents(output))
    # Nothing that was under way is lost, and the table knows all of it.
    assert list(statuses(output).values()).count("ok") == before < number
    third = start(run, frames, output)
    out, err = third.communicate(timeout=300)
    assert third.returncode == ExitCode.COMPLETE, err
    assert f"{number - before} magnetograms made and {before} there before" in out
    whole = start(run, frames, tmp_path / "undisturbed")
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == ExitCode.COMPLETE, err
    assert contents(output) == contents(tmp_path / "undisturbed")
    assert len(contents(output)) == number


def test_a_folder_that_cannot_be_written_is_a_fault_of_the_environment(
    tmp_path: Path, far_side: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_set(tmp_path / "euvi", 0)
    monkeypatch.setattr("sdoml_dist.store.folder.put", full)
    code, told = far_side(saved(tmp_path / "run"), tmp_path / "euvi", tmp_path / "fields")
    assert code == ExitCode.ENVIRONMENT
    assert "Writing frames.csv" in told
    assert "Free some space" in told
