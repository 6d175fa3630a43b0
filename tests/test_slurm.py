"""Jobs on a real SLURM of two nodes: builds, requeues, lost nodes, neighbours, arrays, a training."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.cli import main
from sdoml_dist.engine.run import build
from sdoml_dist.errors import ExitCode
from sdoml_dist.recipe_file import load_recipe, parse_recipe
from sdoml_dist.training import checkpoint
from sdoml_dist.training.log import read_log
from tests.conftest import ROOT, small
from tests.servers.slurm import Slurm, slurm_cluster
from tests.test_build import contents, same
from tests.test_crash import done_frames, write_recipe
from tests.test_latent_space import config_file
from tests.test_nodes import nodes_used

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PERIOD = {"start": "2011-02-15T00:00", "end": "2011-02-15T06:00"}
RAY, ARRAY = str(ROOT / "slurm/sdoml_ray.sbatch"), str(ROOT / "slurm/sdoml_array.sbatch")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm_cluster(2, tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def expected(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("expected")
    build(load_recipe(write_recipe(folder, "whole", period=PERIOD)))
    return contents(str(folder / "whole"))


@pytest.fixture
def site(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of submission, with a site file: a private folder of each host for sockets, our Python."""
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/site.env").write_text(
        f"SDOML_PYTHON={sys.executable}\nSDOML_TMP=/tmp/ray\nOMP_NUM_THREADS=1\nPYTHONPATH={ROOT}\n"
        # As in conftest.py, for jobs that do not get the environment of the tests.
        "RAY_worker_niceness=0\n"
    )
    # What pytest's own Ray has put there must not reach the jobs.
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    slurm.revive()
    return tmp_path


def submit(
    slurm: Slurm, folder: Path, script: str, *arguments: str, cpus: int = 1, nodes: int = 2, minutes: int = 20
) -> int:
    # By default so long that the scripts' own SIGUSR1, five minutes before, never comes by itself.
    options = [f"--cpus-per-task={cpus}", "--mem=2900M", f"--time={minutes}"]
    if script == RAY:
        options.append(f"--nodes={nodes}")
    first = [argument for argument in arguments if argument.startswith(("--array=", "--export=", "--gpus="))]
    return slurm.submit(*options, *first, script, *[one for one in arguments if one not in first], cwd=folder)


def log(folder: Path, job: int | str) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob(f"sdoml*-{job}*.log")))


def wait_for(condition: Callable[[], bool], told: Callable[[], str], timeout: float = 180) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def ended(slurm: Slurm, job: int, folder: Path, timeout: float = 400) -> dict[str, str]:
    """Wait for a job's end; nothing of it may be left on the nodes."""
    # Jobs have twenty minutes; two at once on a busy machine take some of them.
    (found,) = slurm.wait(job, timeout)
    assert not (slurm.hosts.folder / f"ray1/r{job}").exists(), log(folder, job)
    assert not list((folder / f"sdoml-job-{job}").glob("token"))
    return found


def test_two_jobs_on_the_same_nodes(slurm: Slurm, site: Path, expected: dict[str, Any]) -> None:
    """Both build over both nodes at once; each is complete, and bit-identical to a build on one machine.

    One is submitted without the user's environment, which holds for steps as well; the other has three GPUs over two nodes.
    """
    options = {"a": "--export=NONE", "b": "--gpus=3"}
    jobs = {
        name: submit(slurm, site, RAY, option, "build", str(write_recipe(site, name, period=PERIOD)))
        for name, option in options.items()
    }
    ports = []
    for name, job in jobs.items():
        found = ended(slurm, job, site)
        assert (found["JobState"], found["ExitCode"]) == ("FAILED", f"{ExitCode.FRAMES_FAILED}:0"), log(site, job)
        same(expected, contents(str(site / name)))
        assert len(nodes_used(site / name)) == 2
        ports.append(set(map(int, re.findall(r"-port=(\d{5})", log(site, job)))))
        gpus = sorted(re.findall(r"--num-cpus=1 --num-gpus=(\d)", log(site, job)))
        assert gpus == {"a": ["0", "0"], "b": ["1", "2"]}[name], log(site, job)
        assert log(site, job).count(f"--temp-dir=/tmp/ray/r{job}/t ") == 2
    assert len(ports[0]) >= 8
    assert not ports[0] & ports[1]


def test_the_time_limit_drains_and_requeues(slurm: Slurm, site: Path, ray_cluster: Any) -> None:
    """Seven minutes, less the five of the script's own --signal: after one to two minutes, for SLURM may be a minute early."""
    # How long the run may drain is a matter of the job's limit, and not of the recipe.
    period = {"start": "2011-02-15T00:00", "end": "2011-02-17T00:00"}
    resources = {"commit_every_units": 1, "drain_s": 0, "maximum_actors": 1}
    recipe = write_recipe(site, "d", period=period, resources=resources)
    job = submit(slurm, site, RAY, "build", str(recipe), minutes=7)
    found = ended(slurm, job, site, 800)
    told = log(site, job)
    assert found["ExitCode"] == f"{ExitCode.FRAMES_FAILED}:0", told
    # One actor takes longer than two minutes for two days.
    assert int(found["Restarts"]) >= 1, told
    # What is left of the seven minutes, less the margin.
    for patience in re.findall(r"SIGUSR1: the run may drain for (\d+) s", told):
        assert 180 < int(patience) < 360
    assert "Stopped by SIGUSR1" in told
    assert "ended with 75" in told
    assert "resumed:" in told
    build(load_recipe(write_recipe(site, "whole", period=period)))
    same(contents(str(site / "whole")), contents(str(site / "d")))


def test_a_cancelled_job_leaves_whole_commits(slurm: Slurm, site: Path, expected: dict[str, Any]) -> None:
    """SIGTERM to everything, Ray as well; the same command goes on in another job."""
    recipe = write_recipe(site, "d", period=PERIOD, resources={"commit_every_units": 1})
    job = submit(slurm, site, RAY, "build", str(recipe))
    wait_for(lambda: done_frames(str(site / "d")) >= 8, lambda: log(site, job))
    slurm.command("scancel", str(job))
    found = ended(slurm, job, site)
    assert (found["JobState"], found["Restarts"]) == ("CANCELLED", "0"), log(site, job)
    before = done_frames(str(site / "d"))
    assert before >= 8
    assert not list((site / "d").rglob("lease.json")), log(site, job)
    again = submit(slurm, site, RAY, "build", str(recipe))
    found = ended(slurm, again, site)
    assert found["ExitCode"] == f"{ExitCode.FRAMES_FAILED}:0", log(site, again)
    assert f"resumed: {before} frames done" in log(site, again)
    same(expected, contents(str(site / "d")))


def test_nodes_that_lose_power(slurm: Slurm, site: Path, expected: dict[str, Any]) -> None:
    """The driver's: the job is requeued and goes on once there are nodes. Another: the run goes on without it."""
    recipe = write_recipe(site, "d", period=PERIOD)
    job = submit(slurm, site, RAY, "build", str(recipe))
    wait_for(lambda: done_frames(str(site / "d")) >= 4, lambda: log(site, job))
    assert slurm.jobs(job)[0]["BatchHost"] == slurm.node(1)
    # Ray opens its own folders to everybody; nobody else gets as far as those.
    for host in (1, 2):
        assert (slurm.hosts.folder / f"ray{host}/r{job}").stat().st_mode & 0o777 == 0o700
    slurm.power_off(1)
    wait_for(lambda: slurm.jobs(job)[0]["Restarts"] == "1", lambda: log(site, job))
    # The job's own log went through the lost node.
    noted = (site / f"sdoml-job-{job}/ray-{slurm.node(2)}.log").read_text()
    assert "the node of the driver is down; the job is requeued" in noted
    before = done_frames(str(site / "d"))
    slurm.start_node(1)
    wait_for(lambda: done_frames(str(site / "d")) >= before + 8, lambda: log(site, job))
    slurm.power_off(2)
    found = ended(slurm, job, site)
    assert (found["ExitCode"], found["Restarts"]) == (f"{ExitCode.FRAMES_FAILED}:0", "1"), log(site, job)
    told = log(site, job)
    assert "run 1: 2 nodes" in told
    assert "resumed:" in told
    # Which of the two is told depends on what ends first: the step of the lost node, or the run without it.
    assert f"node {slurm.node(2)} is lost" in told or f"Node failure on {slurm.node(2)}" in told
    same(expected, contents(str(site / "d")))


def test_a_failed_part_is_done_again_by_the_printed_expression(slurm: Slurm, site: Path, ray_cluster: Any) -> None:
    files = site / "files"
    simulated = write_recipe(site, "simulated", source={"kind": "simulator", "simulation": {"pixels": 128}})
    assert main(["simulate", str(simulated), "-o", str(files)]) == 0
    source = {"kind": "files", "url": str(files), "pixels": 128}
    recipe = write_recipe(site, "d", source=source)
    damaged = sorted(files.rglob("*171*.fits"))[20]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) * 6 // 10])
    job = submit(slurm, site, ARRAY, "--array=1-3", "3", "build", str(recipe))
    # The last task of an array has the number of the array; its time limit must not be that of the others.
    wait_for(lambda: "Ray at" in log(site, f"{job}_3"), lambda: log(site, job))
    slurm.command("scancel", "--batch", "--signal=USR1", f"{job}_3")
    tasks = {task["ArrayTaskId"]: task for task in slurm.wait(job)}
    codes = {number: (task["ExitCode"], task["Restarts"]) for number, task in tasks.items()}
    assert codes == {"1": ("0:0", "0"), "2": (f"{ExitCode.FRAMES_FAILED}:0", "0"), "3": ("0:0", "1")}, log(site, job)
    assert tasks["3"]["JobId"] == str(job)
    status = [sys.executable, "-m", "sdoml_dist", "status", str(site / "d"), "--array-expression", "3"]
    expression = slurm.command(*status).stdout.strip()
    assert expression == "2"
    damaged.write_bytes(whole)
    job = submit(slurm, site, ARRAY, f"--array={expression}", "3", "build", str(recipe), "--retry", "failed")
    assert [task["ExitCode"] for task in slurm.wait(job)] == ["0:0"], log(site, job)
    assert slurm.command(*status).stdout.strip() == ""
    # Last, because a frame remembers the state of its file.
    build(load_recipe(write_recipe(site, "whole", source=source)))
    same(contents(str(site / "whole")), contents(str(site / "d")))


def test_a_training_over_two_nodes(slurm: Slurm, site: Path, ray_cluster: Any) -> None:
    """Two workers of one CPU on nodes of one CPU each: the group spans both. Requeued in the middle, it goes on at its step."""
    url = str(site / "d")
    build(
        parse_recipe(
            small(
                url, period={"start": "2011-02-10", "end": "2011-02-11"}, cadence="1h", grid={"pixels": 128},
                source={"kind": "simulator", "simulation": {"pixels": 256}}, chunking={"shard_slots": 6},
            )
        )
    )  # fmt: skip
    config = config_file(
        site, url, data={
            "store": {"url": url}, "channels": ["171A", "304A"], "statistics_samples": 8, "threads": 1,
            "split": {"kind": "blocks", "fractions": {"train": 0.7, "validation": 0.3}, "block": "3h", "gap": "0s"},
        },
        workers={"number": 2, "cpus": 1},
        training={"steps": 60, "global_batch": 4, "micro_batch": 2, "learning_rate": 0.001},
        watching={"validate_every": 30, "checkpoint_every": 30, "log_every": 1},
    )  # fmt: skip
    job = submit(slurm, site, RAY, "train", str(config))
    wait_for(lambda: (site / "run").is_dir() and len(read_log(site / "run")) >= 3, lambda: log(site, job))
    slurm.command("scancel", "--batch", "--signal=USR1", str(job))
    found = ended(slurm, job, site)
    told = log(site, job)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", "1"), told
    (step,) = re.findall(r"going on at step (\d+) of 60", told)
    assert 3 <= int(step) < 60
    assert "step 60" in told
    assert [line["step"] for line in read_log(site / "run")] == list(range(1, 61))
    assert checkpoint.found(site / "run")
