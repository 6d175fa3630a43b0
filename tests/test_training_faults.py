"""Trainings that lose a worker, their driver or a host, or are told to stop, end as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdoml_dist.errors import ExitCode
from sdoml_dist.training import checkpoint
from sdoml_dist.training.log import read_log
from tests.conftest import ROOT
from tests.servers.hosts import Hosts, ray_hosts, wait_until
from tests.toys import in_group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 24
# Trainings wait after so many steps, which have no checkpoint of their own, until the test has done what it does to them.
HELD = 8
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
}  # fmt: skip


def command(folder: Path, *hold: int, pause_s: float = 0.0) -> list[str]:
    given = {"began": str(folder / "began"), "gates": str(folder), "hold": hold, "pause_s": pause_s}
    return [sys.executable, "-m", "tests.toys", str(folder), str(STEPS), json.dumps(given)]


def drive(folder: Path, *hold: int, pause_s: float = 0.0) -> subprocess.Popen[str]:
    """Start a training of two workers on a private Ray; it waits for `let_go` before the steps to hold at."""
    return subprocess.Popen(
        command(folder, *hold, pause_s=pause_s), cwd=ROOT, env=os.environ | ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def let_go(folder: Path, step: int = HELD) -> None:
    """Let a training go on that waits before a step."""
    (folder / f"go{step}").touch()


def end(run: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a run and return what it has printed."""
    try:
        out, err = run.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        run.kill()
        raise AssertionError("the run has not ended: " + "".join(run.communicate())) from None
    assert run.returncode == code, out + err
    return out + err


def weights(place: Path) -> dict[str, Tensor]:
    """Return all weights of a checkpoint, which is of the last step."""
    about = checkpoint.about(place)
    assert (about["step"], about["finished"]) == (STEPS, True)
    files = {path.stem: load_file(path) for path in place.glob("*.safetensors")}
    assert set(files) == {"discriminator", "generator", "ema"}
    return {f"{name}.{key}": value for name, file in files.items() for key, value in file.items()}


def same(folder: Path, undisturbed: Path) -> None:
    """Compare weights bit by bit, and the curves."""
    wanted, found = weights(undisturbed), weights(checkpoint.found(folder / "training")[-1])
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), name
    lines = read_log(folder / "training")
    usual = torch.load(undisturbed / "told.pt", weights_only=True)["told"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["generator_loss"] for line in lines] == [metrics["generator_loss"] for metrics, _ in usual]


def wait(folder: Path, run: subprocess.Popen[str], step: int = HELD) -> None:
    """Wait until a training waits."""
    wait_until(lambda: [line["step"] for line in read_log(folder / "training")][-1:] == [step], run, 400)


def workers(folder: Path) -> list[tuple[str, int]]:
    """Return host and process of every worker that has begun."""
    lines = [line.split() for line in (folder / "began").read_text().splitlines()]
    return [(host, int(process)) for host, process in lines]


def lives(process: int) -> bool:
    """Return whether a process computes; nobody may have taken notice of its end."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in two processes without Ray and with nothing in the way."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(in_group, (2, str(folder), STEPS), nprocs=2)
    return folder / "ToyPair"


def test_killed_worker(tmp_path: Path, undisturbed: Path) -> None:
    run = drive(tmp_path, HELD)
    wait(tmp_path, run)
    os.kill(workers(tmp_path)[-1][1], signal.SIGKILL)
    let_go(tmp_path)
    end(run)
    assert len(workers(tmp_path)) >= 4
    same(tmp_path, undisturbed)


def test_killed_driver_and_the_same_command(tmp_path: Path, undisturbed: Path) -> None:
    run = drive(tmp_path, HELD)
    wait(tmp_path, run)
    run.kill()
    run.communicate(timeout=60)
    # A private Ray ends soon after its driver.
    deadline = time.monotonic() + 120
    while any(lives(process) for _, process in workers(tmp_path)):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    let_go(tmp_path)
    assert "going on at step 5 of 24" in end(drive(tmp_path, HELD))
    same(tmp_path, undisturbed)
    assert '"before": true' in end(drive(tmp_path, HELD))


def test_told_to_stop_while_another_driver_is_refused(tmp_path: Path, undisturbed: Path) -> None:
    run = drive(tmp_path, HELD, pause_s=0.2)
    wait(tmp_path, run)
    assert "is in use" in end(drive(tmp_path, HELD), ExitCode.ENVIRONMENT)
    run.send_signal(signal.SIGTERM)
    assert run.stderr is not None
    assert any("SIGTERM: stopping after the step under way" in line for line in run.stderr)
    let_go(tmp_path)
    end(run, ExitCode.STOPPED)
    # A checkpoint of the step under way, whether one was due or not.
    stopped = checkpoint.about(checkpoint.found(tmp_path / "training")[-1])
    assert HELD < stopped["step"] == read_log(tmp_path / "training")[-1]["step"] < STEPS
    assert not stopped["finished"]
    assert f"going on at step {stopped['step']} of {STEPS}" in end(drive(tmp_path))
    same(tmp_path, undisturbed)


CPUS = (0, 1, 1, 1)


@pytest.fixture(scope="module")
def all_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head without work and three hosts for two workers."""
    with ray_hosts(CPUS, tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture
def hosts(all_hosts: Hosts) -> Hosts:
    """All hosts alive, whatever the last test did to them."""
    all_hosts.revive(CPUS)
    return all_hosts


def drive_on(hosts: Hosts, folder: Path, *hold: int) -> subprocess.Popen[str]:
    """Start a training of two workers on the hosts."""
    return hosts.run(0, command(folder, *hold), environment={**ENVIRONMENT, "RAY_ADDRESS": hosts.ray_address})


def test_a_host_that_loses_power(hosts: Hosts, tmp_path: Path, undisturbed: Path) -> None:
    run = drive_on(hosts, tmp_path, HELD)
    wait(tmp_path, run)
    names = [host for host, _ in workers(tmp_path)]
    assert len(set(names)) == 2
    (lost,) = [number for number in range(1, 4) if hosts.name(number) == names[-1]]
    hosts.power_off(lost)
    let_go(tmp_path)
    end(run)
    later = [host for host, _ in workers(tmp_path)[-2:]]
    assert hosts.name(lost) not in later
    assert len(set(later)) == 2
    same(tmp_path, undisturbed)


def test_a_host_whose_end_is_announced(hosts: Hosts, tmp_path: Path, undisturbed: Path) -> None:
    later = HELD + 3
    run = drive_on(hosts, tmp_path, HELD, later)
    wait(tmp_path, run)
    name = workers(tmp_path)[-1][0]
    code = (
        "from ray._raylet import GcsClient\n"
        f"nodes = GcsClient(address='{hosts.ray_address}').get_all_node_info(timeout=20).values()\n"
        f"print(*(n.node_id.hex() for n in nodes if n.node_manager_hostname == '{name}' and n.state == 0))\n"
    )
    node = hosts.run(0, [sys.executable, "-c", code]).communicate(timeout=60)[0].strip()
    drain = [
        "ray", "drain-node", "--address", hosts.ray_address, "--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message", "to be reclaimed", "--deadline-remaining-seconds", "600",
    ]  # fmt: skip
    drained = hosts.run(0, drain)
    said = drained.communicate(timeout=120)
    assert drained.returncode == 0, said
    # Ray's controller asks for announcements every second here, and tells the workers.
    time.sleep(15)
    let_go(tmp_path)
    wait(tmp_path, run, later)
    # None is due at this step.
    assert HELD + 1 in [checkpoint.about(one)["step"] for one in checkpoint.found(tmp_path / "training")]
    let_go(tmp_path, later)
    end(run)
    same(tmp_path, undisturbed)
