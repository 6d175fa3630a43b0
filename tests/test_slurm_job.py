"""What a SLURM job may use, where it puts things, and how it waits: without SLURM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdoml_dist.engine import allocation, slurm_job, slurm_node, slurm_queue
from sdoml_dist.engine.allocation import (
    Share,
    node_names,
    own_address,
    per_node,
    ports,
    private_folder,
    share,
    temporary_folder,
)
from sdoml_dist.engine.cluster import private_resources
from sdoml_dist.engine.slurm_job import Runner, main, patience_s, wait_for_nodes
from sdoml_dist.engine.slurm_node import END, Node, fault_path, ray_command
from sdoml_dist.engine.slurm_queue import has_lost_its_script, job_name, parse_gpus, parse_time_left
from sdoml_dist.engine.slurm_settings import Job
from sdoml_dist.engine.stop import StopHandler
from sdoml_dist.errors import EnvironmentFault, ExitCode, UsageError
from tests.conftest import ROOT

BASE = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[07-09],gpu1", "SLURM_JOB_CPUS_PER_NODE": "4(x3),8"}


def job(folder: Path, **changes: str) -> Job:
    return Job.of(BASE | {"SLURM_SUBMIT_DIR": str(folder)} | changes)


def test_lists_of_nodes_and_numbers() -> None:
    assert node_names("node[01-03,07],gpu5") == ["node01", "node02", "node03", "node07", "gpu5"]
    assert node_names("r[1-2]n[08-10]") == ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]
    assert node_names("login") == ["login"]
    assert per_node("4(x2),8") == [4, 4, 8]
    for bad in ("node[1-x]", "node[]"):
        with pytest.raises(UsageError, match="not a list of nodes"):
            node_names(bad)
    with pytest.raises(UsageError, match="numbers per node"):
        per_node("4(y2)")


def test_a_job_reads_its_environment_and_begins_where_its_script_runs(tmp_path: Path) -> None:
    found = job(tmp_path, SLURMD_NODENAME="node08", SLURM_RESTART_COUNT="2", SLURM_ARRAY_TASK_ID="3")
    assert found.nodes == ("node08", "node07", "node09", "gpu1")
    assert found.cpus == (4, 4, 4, 8)
    assert (found.number, found.restart, found.task, found.least_nodes) == (4711, 2, 3, 4)
    step = found.step(3)
    assert "--nodelist=gpu1" in step
    # sbatch --export=NONE must not keep the token from the steps.
    assert "--export=ALL" in step
    assert "--cpus-per-task=8" in step
    with pytest.raises(UsageError, match="not a SLURM job"):
        Job.of({})
    with pytest.raises(UsageError, match="SDOML_MIN_NODES=two is not a whole number"):
        job(tmp_path, SDOML_MIN_NODES="two")
    # A token or an address that the user has for another cluster must not win.
    kept = found.environment({"RAY_ADDRESS": "x", "RAY_AUTH_TOKEN": "y", "RAY_DEDUP_LOGS": "1", "RAY_AUTH_MODE": "disabled"})
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & kept.keys()
    assert (kept["RAY_DEDUP_LOGS"], kept["RAY_AUTH_MODE"]) == ("1", "token")


def test_metrics_are_off_unless_somebody_looks_at_them(tmp_path: Path) -> None:
    found, name = job(tmp_path), "RAY_enable_metrics_collection"
    assert found.environment({})[name] == found.environment({"SDOML_DASHBOARD": "0"})[name] == "0"
    assert name not in found.environment({"SDOML_DASHBOARD": "1"})
    assert found.environment({name: "1"})[name] == "1"


def test_a_task_of_an_array_has_a_name_of_its_own(tmp_path: Path) -> None:
    """The last task of an array has the number of the array; a requeue of that number would be one of all tasks."""
    array = {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "8"}
    assert job_name(BASE | array) == job(tmp_path, **array).name == "4711_8"
    assert job_name(BASE) == job(tmp_path).name == "4711"


def test_gpus_of_the_whole_job_are_divided_as_slurm_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    details = (
        "JobId=4711 NodeList=node[07-09],gpu1 CPUs/Task=4 TRES=cpu=8 JOB_GRES=gpu:7   Nodes=node[07-08] CPU_IDs=0-3 Mem=100 "
        "GRES=gpu:a100:2(IDX:0-1),nic:1(IDX:0)   Nodes=node09 CPU_IDs=0 Mem=100 GRES=   Nodes=gpu1 CPU_IDs=0,2 Mem=100 "
        "GRES=gpu:a100:2(IDX:0,2),gpu:h100:1(IDX:3) MinCPUsNode=1 Command=(null)"
    )
    assert parse_gpus(details) == {"node07": 2, "node08": 2, "node09": 0, "gpu1": 3}
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm_queue, "_ask", lambda *command: (asked.append(command), (details, ""))[1])
    assert job(tmp_path).gpus is None
    assert not asked
    found = job(tmp_path, SLURM_GPUS="7", SLURMD_NODENAME="node08")
    assert found.gpus == (2, 2, 0, 3)
    assert [found.step(index)[2] for index in range(4)] == ["--gpus=2", "--gpus=2", "--gres=none", "--gpus=3"]
    # The number for the whole job contradicts that, even in the environment.
    assert "SLURM_GPUS" not in found.environment({"SLURM_GPUS": "7"})
    monkeypatch.setattr(slurm_queue, "_ask", lambda *_: ("", "Unable to contact slurm controller"))
    with pytest.raises(EnvironmentFault, match="Unable to contact"):
        job(tmp_path, SLURM_GPUS="7")


def test_only_the_allocation_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(allocation, "_group_limits", lambda: (float("inf"), float("inf")))
    whole = psutil.virtual_memory().total
    assert share({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "2000"}) == Share(4, 2000 * 2**20, 0)
    assert share({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "500"}).memory_bytes == 2000 * 2**20
    # SLURM says nothing of memory: the CPUs' part of the machine's. It says more than there is: what there is.
    assert share({"SLURM_CPUS_ON_NODE": "1"}).memory_bytes <= whole
    assert share({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "999999999"}).memory_bytes == whole
    assert share({"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0,1"}).gpus == 2
    assert share({"CUDA_VISIBLE_DEVICES": ""}).gpus == 0
    monkeypatch.setattr(allocation, "_group_limits", lambda: (2.5, 1e9))
    assert share({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "2000"}) == Share(2, 10**9, 0)
    # A private Ray of a process of the job keeps to that, too.
    allotted = {"SLURM_JOB_ID": "1", "SLURM_CPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "2000"}
    assert private_resources(None, allotted) == {"num_cpus": 2, "_memory": Share(2, 10**9, 0).for_ray(head=True)[0]}
    assert private_resources(1, {}) == {"num_cpus": 1}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert share({"SLURM_CPUS_ON_NODE": "4"}).cpus == 1


@given(st.integers(1200 * 2**20, 2**42), st.booleans())
def test_memory_is_divided_and_never_more_than_all(memory: int, head: bool) -> None:
    actors, store = Share(4, memory, 0).for_ray(head)
    assert actors + store < memory
    assert actors > memory * 0.4
    assert store >= 75 * 2**20


def test_too_little_memory_is_said() -> None:
    with pytest.raises(EnvironmentFault, match="Nothing would be left"):
        Share(1, 300 * 2**20, 0).for_ray(head=True)


@given(st.integers(1, 10**8), st.integers(1, 1399), st.integers(0, 4))
def test_jobs_have_ports_of_their_own(number: int, more: int, attempt: int) -> None:
    mine, others = (set(ports(n, attempt, lambda _: True).values()) for n in (number, number + more))
    assert not mine & others
    assert len(mine) == len(allocation.PORTS)
    # Below what Linux hands out to others, above what needs rights.
    assert min(mine) >= 10_000
    assert max(mine) < 32_768
    assert mine.isdisjoint(ports(number, attempt + 1, lambda _: True).values())


def test_a_taken_port_moves_the_whole_block() -> None:
    with socket.socket() as taken:
        wanted = ports(1234, free=lambda _: True)["dashboard"]
        taken.bind(("127.0.0.1", wanted))
        taken.listen()
        assert ports(1234) == ports(1234, 1)
    with pytest.raises(EnvironmentFault, match="ports in a row"):
        ports(1, free=lambda _: False)


def test_the_path_of_sockets_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary_folder({}, 4711) == Path("/tmp/r4711")
    # A long default gives way, a long choice is refused with the sum.
    long = "/scratch/" + "x" * 60
    assert temporary_folder({"SLURM_TMPDIR": long}, 4711) == Path("/tmp/r4711")
    with pytest.raises(EnvironmentFault, match=r"75 bytes and 69 of Ray's sockets below it are 144, a socket may have 107"):
        temporary_folder({"SDOML_TMP": long}, 4711)
    monkeypatch.setattr(allocation, "_filesystem", lambda _: "lustre")
    with pytest.raises(EnvironmentFault, match=r"network file system \(lustre\)"):
        temporary_folder({"SDOML_TMP": "/work"}, 4711)


def test_folders_are_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has guessed the number of a job must not get at its sockets and its token."""
    ours = tmp_path / "deep" / "r4711"
    private_folder(ours)
    private_folder(ours)
    assert ours.stat().st_mode & 0o777 == 0o700
    ours.chmod(0o750)
    with pytest.raises(EnvironmentFault, match="mode 0750"):
        private_folder(ours)
    ours.chmod(0o700)
    link, file = tmp_path / "r1", tmp_path / "r2"
    link.symlink_to(ours)
    file.touch(mode=0o600)
    for other in (link, file):
        with pytest.raises(EnvironmentFault, match="no folder of user"):
            private_folder(other)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(EnvironmentFault, match=f"a folder of user {user} with mode 0700; this is user {user + 1}"):
        private_folder(ours)


@pytest.mark.parametrize("name", ["SDOML_TMP", "SDOML_SPILL"])
def test_a_node_leaves_a_foreign_folder_alone(name: str, tmp_path: Path) -> None:
    place = tmp_path / {"SDOML_TMP": "r4711", "SDOML_SPILL": "sdoml-spill-4711-n1"}[name]
    place.mkdir(mode=0o755)
    (place / "precious").touch()
    node = Node(tmp_path, True, {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n1", "SDOML_TMP": "/tmp", name: "/tmp"})
    node.temporary, node.spill = tmp_path / "r4711", tmp_path / "sdoml-spill-4711-n1"
    with pytest.raises(EnvironmentFault, match=f"{place} is there already"):
        node.run()
    assert (place / "precious").exists()
    assert list(tmp_path.iterdir()) == [place]


def test_a_step_without_a_token_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "token"
    monkeypatch.setattr(Node, "run", lambda _: pytest.fail("Ray would be started"))
    monkeypatch.setattr(os, "environ", {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n1", "SDOML_TMP": "/tmp"})

    def refused(**changes: str) -> str:
        os.environ.update(changes)
        assert slurm_node.main([str(tmp_path), "n1"]) == ExitCode.ENVIRONMENT
        return fault_path(tmp_path, 0, "n1").read_text()

    assert "has no token (RAY_AUTH_MODE=None" in refused()
    assert "has no token (RAY_AUTH_MODE=disabled" in refused(RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN_PATH=str(path))
    assert "No such file" in refused(RAY_AUTH_MODE="token")
    path.write_text("\n")
    assert "has no token (RAY_AUTH_MODE=token" in refused()


def test_the_address_is_one_of_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = type("Entry", (), {"family": socket.AF_INET})
    cards = {"lo": "127.0.0.1", "eth0": "192.0.2.7", "ib0": "198.51.100.7"}

    def cards_of_this_node() -> dict[str, list[Any]]:
        found = {name: [entry()] for name in cards}
        for name, address in cards.items():
            found[name][0].address = address
        return found

    monkeypatch.setattr(psutil, "net_if_addrs", cards_of_this_node)
    assert own_address({"SDOML_IFACE": "ib0"}) == "198.51.100.7"
    # A name that leads to loopback or elsewhere does not count.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (a, 0)) for a in ("127.0.1.1", "198.51.100.7")])
    assert own_address({"SLURMD_NODENAME": "node07"}) == "198.51.100.7"
    with pytest.raises(EnvironmentFault, match=r"eth0 \(192\.0\.2\.7\)"):
        own_address({"SDOML_IFACE": "ib1"})


def test_ray_is_told_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_node, "own_address", lambda *_: "192.0.2.7")
    monkeypatch.setattr(slurm_node, "share", lambda _: Share(4, 8 * 2**30, 2))
    places = {"temporary": tmp_path, "spill": tmp_path / "spill"}
    head, address = ray_command({}, node="n1", job=5, attempt=0, head=None, **places)
    worker, same = ray_command({}, node="n2", job=5, attempt=0, head=address, **places)
    assert address == same == "192.0.2.7:10080"
    for command in (head, worker):
        given_options = {part.split("=")[0] for part in command}
        assert {"--num-cpus", "--num-gpus", "--memory", "--object-store-memory", "--temp-dir", "--block"} <= given_options
        # None of Ray's fixed ports is left to its default.
        assert {f"--{name}-port" for name in ("node-manager", "object-manager", "runtime-env-agent")} <= given_options
        assert "--num-gpus=2" in command
        assert f"--temp-dir={tmp_path}/t" in command
        assert f"--object-spilling-directory={tmp_path}/spill/t" in command
    assert "--address=192.0.2.7:10080" in worker
    assert "--head" in head
    assert "--dashboard-host=127.0.0.1" in head


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_for_nodes_counts_and_names(tmp_path: Path) -> None:
    found, clock = job(tmp_path), Clock()
    times = {"node07": 1, "node08": 5, "node09": 20, "gpu1": 30}

    def seen() -> set[str]:
        return {name for name, since in times.items() if clock.now >= since}

    wait_for_nodes(found, seen, lambda: False, clock=clock, sleep=clock.sleep)
    assert 30 <= clock.now < 31
    times["node09"] = 10**6
    clock.now = 0.0
    with pytest.raises(EnvironmentFault, match="3/4 nodes after 300 s; missing node09") as caught:
        wait_for_nodes(found, seen, lambda: False, clock=clock, sleep=clock.sleep)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    # One that has said why is not waited for.
    clock.now = 40.0
    found.folder.mkdir()
    fault_path(found.folder, 0, "node09").write_text("/tmp has 0.10 GB free")
    with pytest.raises(EnvironmentFault, match=r"0\.10 GB free"):
        wait_for_nodes(found, seen, lambda: False, clock=clock, sleep=clock.sleep)
    assert clock.now == 40.0
    wait_for_nodes(job(tmp_path, SDOML_MIN_NODES="3"), seen, lambda: False, clock=clock, sleep=clock.sleep)


class Driverless(Runner):
    """A run whose steps do nothing, on a driver of our choice."""

    code = 0

    def _address(self) -> str | None:
        return "192.0.2.7:10080"

    def _drive(self, address: str) -> int:
        assert (os.environ["RAY_AUTH_MODE"], Path(os.environ["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777) == (
            "token", 0o600,
        )  # fmt: skip
        self.signal = self.sent
        return self.code


def test_exit_codes_and_requeues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    monkeypatch.setattr("sdoml_dist.engine.slurm_job.wait_for_nodes", lambda *_: None)
    monkeypatch.setattr(Job, "step", lambda self, index: [sys.executable, "-c", "import sys; sys.stdin.read()"])
    monkeypatch.setattr(slurm_queue, "_ask", lambda *command: (asked.append(command), ("", ""))[1])
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def ends(code: int, sent: int | None = None, **changes: str) -> tuple[int, int]:
        asked.clear()
        runner = Driverless(job(tmp_path, **changes), ["build", "r"])
        runner.code, runner.sent = code, sent
        result = runner.run()
        assert not (runner.job.folder / "token").exists()
        return result, len(asked)

    try:
        assert ends(0) == (0, 0)
        assert ends(3) == (3, 0)
        assert ends(-9) == (137, 0)
        # The time limit: drained, and back into the queue; unless it was finished, or that has been done too often.
        assert ends(75, signal.SIGUSR1) == (75, 1)
        assert asked[0] == ("scontrol", "requeue", "4711")
        assert ends(-10, signal.SIGUSR1) == (75, 1)
        assert ends(75, signal.SIGUSR1, SLURM_ARRAY_JOB_ID="4711", SLURM_ARRAY_TASK_ID="3") == (75, 1)
        assert asked[0] == ("scontrol", "requeue", "4711_3")
        assert ends(0, signal.SIGUSR1) == (0, 0)
        assert ends(75, signal.SIGUSR1, SLURM_RESTART_COUNT="50") == (75, 0)
        # SLURM itself puts a preempted job back.
        assert ends(75, signal.SIGTERM) == (75, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_may_drain_for_as_long_as_the_limit_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"4:53": 293, "2:03:04": 7384, "1-02:03:04": 93784, "UNLIMITED": float("inf"), "INVALID": None, "": None}
    assert {text: parse_time_left(f"{text}\n") for text in texts} == texts
    for text, expected in {"5:00": 240, "30:00": 1740, "0:20": 0, "UNLIMITED": float("inf"), "": 220}.items():
        monkeypatch.setattr(slurm_queue, "_ask", lambda *_, text=text: (text, ""))
        assert patience_s("4711", signal.SIGUSR1) == expected
        # A job that is cancelled has not what is left of its limit.
        assert patience_s("4711", signal.SIGTERM) == 220
    # A driver under a job does not stop before, whatever its recipe says.
    monkeypatch.setenv("SDOML_DRAIN_S", "inf")
    handler = StopHandler(0)
    with handler.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        assert handler.requested
        handler.check()
    monkeypatch.setenv("SDOML_DRAIN_S", "5 minutes")
    with pytest.raises(UsageError, match="SDOML_DRAIN_S=5 minutes"):
        StopHandler(0)


_DRIVER = """
import os, signal, sys, time
told = []
def hear(number, frame):
    told.append(number)
    if len(told) == 2:
        sys.exit(75)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, hear)
open("ready", "w").close()
time.sleep(60)
time.sleep(60)
"""


def test_a_run_that_drains_too_long_is_told_to_break_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """The second signal does so; there is no need to kill a driver that would still commit."""
    (tmp_path / "sdoml_dist.py").write_text(_DRIVER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(slurm_job, "patience_s", lambda *_: 1.0)
    runner = Runner(job(tmp_path), ["build", "r"])
    step = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    runner._steps = {"node07": step}

    def sleep(_: float) -> None:
        # The signal comes once the driver listens.
        if (tmp_path / "ready").exists() and runner.signal is None:
            runner._on_signal(signal.SIGUSR1, None)
        os.sched_yield()

    monkeypatch.setattr(slurm_job.time, "sleep", sleep)
    with caplog.at_level(logging.INFO, "sdoml"):
        assert runner._drive("192.0.2.7:10080") == ExitCode.STOPPED
    assert "SIGUSR1: the run may drain for 1 s" in caplog.text
    assert "units under way are given up" in caplog.text
    step.communicate(b"\n")


def worker(folder: Path, **changes: str) -> Node:
    environment = {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n2", "SDOML_TMP": "/tmp", "SDOML_NODES_TIMEOUT": "0"}
    return Node(folder, head=False, environment=environment | changes)


def test_a_job_that_has_lost_its_script_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "RUNNING|n[2-3]|n1": True, "RUNNING|n[1-3]|n1": False, "COMPLETING|n[2-3]|n1": False, "PENDING||": False,
        "": False,
    }  # fmt: skip
    for text, expected in answers.items():
        monkeypatch.setattr(slurm_queue, "_ask", lambda *_, text=text: (text + "\n" if text else "", ""))
        assert has_lost_its_script("4711") is expected, text


@pytest.mark.parametrize("refusal", ["", "Requested operation is presently disabled"])
def test_a_node_whose_driver_is_lost_puts_the_job_back(
    refusal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    node, asked = worker(tmp_path), []
    answers = iter(["RUNNING|n[1-2]|n1", "RUNNING|n2|n1", "RUNNING|n2|n1"])

    def ask(*command: str) -> tuple[str, str]:
        asked.append(command[:2])
        if command[0] == "squeue":
            return next(answers), ""
        if command[0] == "scancel" or not refusal:
            # SLURM ends the job, and with it this step.
            node.signalled.set()
        return "", refusal

    monkeypatch.setattr(slurm_queue, "_ask", ask)
    monkeypatch.setattr(slurm_node, "_FIRST_PAUSE_S", 0.01)
    node._leave()
    assert ("it is cancelled" if refusal else "the job is requeued") in (tmp_path / "ray-n2.log").read_text()
    assert [command[0] for command in asked] == ["squeue", "squeue", "scontrol"] + ["squeue", "scancel"] * bool(refusal)


def test_a_node_that_the_driver_lets_go_asks_slurm_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "_ask", lambda *_: pytest.fail("there is nothing to ask"))
    for said, told in ((END, True), (b"", False), (b"en", False)):
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(said)
        node, before = worker(tmp_path), os.dup(0)
        os.dup2(reading, 0)
        try:
            slurm_node._watch(node)
        finally:
            os.dup2(before, 0)
            os.close(before)
            os.close(reading)
        assert (node.ended.is_set(), node.told.is_set()) == (True, told)
        if told:
            assert node.run() == ExitCode.COMPLETE


def test_secrets_do_not_reach_the_log() -> None:
    for arguments in (["update", "s3://key:hunter2@b/d"], ["--parts", "s3://key:hunter2@b", "build"],
                      ["build", "r", "--set", "source.storage_options.secret=hunter2"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "sdoml_dist.engine.slurm_job", *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, **BASE, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == ExitCode.USAGE
        assert "by the environment" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr


def test_a_part_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (BASE | {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "4"}).items():
        monkeypatch.setenv(name, value)
    assert main(["--parts", "3", "build", "r"]) == ExitCode.USAGE
    assert main([]) == ExitCode.USAGE


def test_the_scripts_are_sound() -> None:
    for script in sorted((ROOT / "slurm").glob("*.sbatch")):
        subprocess.run(["bash", "-n", str(script)], check=True)
        text = script.read_text()
        assert "#SBATCH --signal=B:USR1@300" in text
        assert "exec " in text
    # Every variable of the site file is read by the program or the scripts.
    read = "".join(path.read_text() for path in [*(ROOT / "slurm").glob("*.sbatch"), *(ROOT / "sdoml_dist/engine").glob("*.py")])
    names = [line[1:].split("=")[0] for line in (ROOT / "slurm/site.env.example").read_text().splitlines() if line[:2] == "#S"]
    assert len(names) >= 8
    assert all(name in read for name in names)
