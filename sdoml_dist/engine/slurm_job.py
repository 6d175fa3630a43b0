"""A SLURM job: one Ray cluster over the allocation, a verb of ``sdoml`` on it, and everything taken down again.

``slurm/sdoml_ray.sbatch`` and ``slurm/sdoml_array.sbatch`` become this program, which so receives the signals that SLURM
sends to the batch script. It starts a step on each node (:mod:`sdoml_dist.engine.slurm_node`), waits for all of them, runs
the verb, and passes signals on. Before the time limit SLURM sends SIGUSR1: the verb drains and commits, for as long as the
limit allows, ends with 75, and the job is put back into the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from sdoml_dist.engine.allocation import private_folder
from sdoml_dist.engine.slurm_node import END, address_path, configure_logging, fault_path
from sdoml_dist.engine.slurm_queue import requeue, seconds_left
from sdoml_dist.engine.slurm_settings import Job
from sdoml_dist.errors import EnvironmentFault, ExitCode, SdomlError, UsageError
from sdoml_dist.redact import redact_setting

logger = logging.getLogger("sdoml")

_POLL_S = 0.3
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
# How long a step may take to end its Ray: more than the node's own patience.
_END_S = 28.0
# How long a driver that has lost its cluster may take to end, and one that is told to give up what is under way.
_DRIVER_S, _BREAK_S = 60.0, 20.0
# What has to be left of the time limit when draining ends: for breaking off, the end of Ray, and going back into the queue.
_MARGIN_S = _BREAK_S + _END_S + 12.0
# How long draining may take where SLURM does not say how much time is left: of the five minutes that the batch scripts ask
# for, less the above and some that a late signal takes.
_DRAIN_S = 220.0


def alive_nodes(address: str) -> set[str]:
    """Return the names of the nodes that have joined a cluster; none if it does not answer."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        found = GcsClient(address=address).get_all_node_info(timeout=2).values()
    except (ray.exceptions.RayError, RuntimeError, OSError):
        return set()
    return {info.node_name for info in found if info.state == 0}


def wait_for_nodes(
    job: Job, seen: Callable[[], set[str]], interrupted: Callable[[], bool], *,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """Wait until all nodes of a job have joined its cluster.

    Parameters
    ----------
    job : Job
        The job.
    seen : callable
        Returns the names of the nodes that have joined.
    interrupted : callable
        Whether to give up waiting.
    clock, sleep : callable
        Time.

    Raises
    ------
    EnvironmentFault
        If nodes are missing after the job's timeout, with their names and what they said.
    """
    start = clock()
    while True:
        there = seen()
        missing = [name for name in job.nodes if name not in there]
        if not missing or interrupted():
            return
        told = [
            f"  {name}: {path.read_text(encoding='utf-8')}"
            for name in missing
            if (path := fault_path(job.folder, job.restart, name)).is_file()
        ]
        waited = clock() - start
        # There is nothing to wait for once each that is missing has said why.
        if waited >= job.timeout_s or len(told) == len(missing):
            count = f"{len(job.nodes) - len(missing)}/{len(job.nodes)} nodes after {waited:.0f} s; missing "
            text = count + ", ".join(missing)
            if len(job.nodes) - len(missing) >= max(1, job.least_nodes):
                logger.warning("%s; going on, as SDOML_MIN_NODES allows", text)
                return
            raise EnvironmentFault(
                "\n".join([text, *told]),
                "The run would be slower than asked for, or wait for ever.",
                f"See {job.folder}/ray-*.log; SDOML_MIN_NODES begins with fewer, SDOML_NODES_TIMEOUT waits longer.",
            )
        sleep(_POLL_S)


def patience_s(name: str, number: int) -> float:
    """Return how long a run may drain after a signal.

    Parameters
    ----------
    name : str
        How SLURM's programs call the job.
    number : int
        The signal. SIGUSR1 comes before the time limit, or before the end of a preempted job's grace: SLURM knows when.
    """
    left = seconds_left(name) if number == signal.SIGUSR1 else None
    return _DRAIN_S if left is None else max(0.0, left - _MARGIN_S)


class Runner:
    """Runs one job.

    Parameters
    ----------
    job : Job
        The job.
    verb : list of str
        Arguments of ``sdoml``.
    """

    def __init__(self, job: Job, verb: list[str]) -> None:
        self.job, self.verb = job, verb
        self.signal: int | None = None
        self._since = 0.0
        self._steps: dict[str, subprocess.Popen[bytes]] = {}
        self._driver: subprocess.Popen[bytes] | None = None
        self._gone: set[str] = set()

    def run(self) -> int:
        """Run the job and return its exit code."""
        job = self.job
        private_folder(job.folder)
        token = job.folder / "token"
        token.unlink(missing_ok=True)
        with os.fdopen(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        ours = job.environment(os.environ)
        for name in os.environ.keys() - ours.keys():
            del os.environ[name]
        os.environ.update(ours)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        logger.info(
            f"job {job.number}, run {job.restart}: {len(job.nodes)} nodes ({', '.join(job.nodes)}), CPUs "
            f"{'+'.join(map(str, job.cpus))}, folder {job.folder}, sdoml {' '.join(self.verb)}"
        )
        try:
            for index, name in enumerate(job.nodes):
                # Its standard input stays open for as long as this process lives.
                self._steps[name] = subprocess.Popen(job.step(index), stdin=subprocess.PIPE)  # noqa: S603 - ours
            address = self._address()
            if address is not None:
                wait_for_nodes(job, lambda: alive_nodes(address), lambda: self.signal is not None)
            code = ExitCode.STOPPED if self.signal is not None or address is None else self._drive(address)
        finally:
            self._end()
            token.unlink(missing_ok=True)
        return self._after(int(code))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, number
        if first:
            self._since = time.monotonic()
        if first and self._driver is not None:
            with contextlib.suppress(ProcessLookupError):
                self._driver.send_signal(number)

    def _address(self) -> str | None:
        """Wait for the head's address; None if a signal came before."""
        job = self.job
        path = address_path(job.folder, job.restart)
        deadline = time.monotonic() + job.timeout_s
        while self.signal is None:
            if path.is_file():
                return str(json.loads(path.read_text(encoding="utf-8"))["address"])
            fault = fault_path(job.folder, job.restart, job.nodes[0])
            ended = self._steps[job.nodes[0]].poll() is not None
            if ended or time.monotonic() > deadline:
                why = fault.read_text(encoding="utf-8") if fault.is_file() else f"see {job.folder}/ray-{job.nodes[0]}.log"
                raise EnvironmentFault(
                    f"0/{len(job.nodes)} nodes: Ray's head on {job.nodes[0]} {'ended' if ended else 'did not start'}: {why}"
                )
            time.sleep(_POLL_S)
        return None

    def _drive(self, address: str) -> int:
        """Run the verb, and return its exit code."""
        logger.info(f"Ray at {address}")
        command = [sys.executable, "-m", "sdoml_dist", *self.verb]
        # How long it drains is decided here, by the time that is left, and not by its recipe.
        environment = {**os.environ, "RAY_ADDRESS": address, "SDOML_DRAIN_S": "inf"}
        # A group of its own would not get the terminal's signals; SLURM's reach it in any case.
        self._driver = subprocess.Popen(command, env=environment)  # noqa: S603 - the user's own
        if self.signal is not None:
            self._driver.send_signal(self.signal)
        head = self._steps[self.job.nodes[0]]
        deadline, told = float("inf"), False
        while self._driver.poll() is None:
            if head.poll() is not None:
                logger.info(f"Ray's head on {self.job.nodes[0]} has ended; so does the run")
                self._driver.terminate()
                self._finish(_DRIVER_S)
                return ExitCode.STOPPED if self.signal is not None else ExitCode.ENVIRONMENT
            if self.signal is not None and not told:
                told, patience = True, patience_s(self.job.name, self.signal)
                deadline = self._since + patience
                logger.info(f"{signal.Signals(self.signal).name}: the run may drain for {patience:.0f} s")
            if time.monotonic() > deadline:
                logger.info("the run has not ended by itself; units under way are given up, what is committed is safe")
                # The second signal breaks off.
                self._driver.terminate()
                self._finish(_BREAK_S)
                return self._driver.returncode
            for name, step in self._steps.items():
                if name not in self._gone and step.poll() is not None:
                    self._gone.add(name)
                    logger.info(f"node {name} is lost (code {step.returncode}); the run goes on without it")
            time.sleep(_POLL_S)
        return self._driver.returncode

    def _finish(self, seconds: float) -> None:
        """Wait for the driver, and kill it if it takes longer."""
        assert self._driver is not None
        try:
            self._driver.wait(seconds)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()

    def _end(self) -> None:
        """Ask all nodes to end their Ray, and wait for them."""
        for step in self._steps.values():
            assert step.stdin is not None
            with contextlib.suppress(OSError):
                step.stdin.write(END)
                step.stdin.close()
        deadline = time.monotonic() + _END_S
        for step in self._steps.values():
            try:
                step.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                step.kill()

    def _after(self, code: int) -> int:
        """Put the job back into the queue if it was stopped by the time limit; return the exit code."""
        settled = [int(one) for one in ExitCode if one is not ExitCode.BUG]
        if self.signal is not None and code not in settled:
            # Broken off: whatever is committed, or in a checkpoint, is safe.
            code = int(ExitCode.STOPPED)
        elif code < 0:
            code = 128 - code
        logger.info(f"ended with {code}")
        if self.signal != signal.SIGUSR1 or code != ExitCode.STOPPED:
            return code
        if self.job.restart >= self.job.most_restarts:
            logger.info(f"not requeued: it was {self.job.restart} times (SDOML_MAX_RESTARTS)")
            return code
        fault = requeue(self.job.name)
        if fault:
            logger.info(f"not requeued ({fault}); the same sbatch command goes on")
        else:
            logger.info("requeued; the next run goes on where this one stopped")
        return code


def main(arguments: list[str]) -> int:
    """Run a job and return the exit code of the batch script."""
    configure_logging()
    if any(redact_setting(argument) != argument for argument in arguments):
        # Before anything can show them: parsers name what they refuse.
        logger.error(
            "The command line holds a password, a key or a signature.\nThe job's log and scontrol would show it to others.\n"
            "Give credentials by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...), for example in slurm/site.env."
        )
        return int(ExitCode.USAGE)
    parser = argparse.ArgumentParser(prog="slurm_job", description="Run a verb of sdoml on the nodes of this SLURM job.")
    parser.add_argument("--parts", type=int, help="run part SLURM_ARRAY_TASK_ID of so many")
    parser.add_argument("verb", nargs=argparse.REMAINDER, help="a verb of sdoml and its arguments")
    options = parser.parse_args(arguments)
    try:
        job = Job.of(os.environ)
        verb = options.verb
        if not verb:
            raise UsageError("No verb is given.", "", "For example: sbatch slurm/sdoml_ray.sbatch build RECIPE")
        if options.parts is not None:
            if job.task is None or not 1 <= job.task <= options.parts:
                raise UsageError(
                    f"Task {job.task} of the array is no part of {options.parts}.",
                    "Parts are numbered from 1.",
                    f"sbatch --array=1-{options.parts} slurm/sdoml_array.sbatch {options.parts} build RECIPE",
                )
            verb = [*verb, "--part", f"{job.task}/{options.parts}"]
        return Runner(job, verb).run()
    except SdomlError as error:
        logger.error("%s", error)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
