"""What a SLURM job is, read from the environment of its batch script: nodes, their steps, settings of the site."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdoml_dist.engine.allocation import node_names, per_node
from sdoml_dist.engine.slurm_node import dashboard
from sdoml_dist.engine.slurm_queue import gpus_per_node, job_name
from sdoml_dist.errors import UsageError

# What a step must not inherit: other clusters' addresses and tokens, and the number of GPUs of the whole job.
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "SLURM_GPUS")
_METRICS = "RAY_enable_metrics_collection"
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    _METRICS: "0",
    "RAY_DEDUP_LOGS": "0",
    # Without these a node that is lost in silence leaves the driver waiting for ever.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # The lease of a run that was killed with its node lives on for half a minute.
    "SDOML_WAIT": "60",
    # Logs of Ray are bounded: 64 MiB and two older files each.
    "RAY_ROTATION_MAX_BYTES": str(64 * 2**20),
    "RAY_ROTATION_BACKUP_COUNT": "2",
}


@dataclass(frozen=True)
class Job:
    """What SLURM says about this job.

    Attributes
    ----------
    number : int
        Number of the job; of a task of an array its own.
    name : str
        How SLURM's programs call it.
    nodes : tuple of str
        Names of the nodes, the batch script's first.
    cpus : tuple of int
        CPUs of the job on each.
    gpus : tuple of int or None
        GPUs of the job on each; None if steps get them without asking.
    restart : int
        How often it was put back into the queue.
    task : int or None
        Number in the array.
    folder : pathlib.Path
        Folder of the job, shared by all nodes.
    timeout_s : float
        How long to wait for nodes.
    least_nodes : int
        With how many to begin when others do not come.
    most_restarts : int
        How often to go back into the queue.
    """

    number: int
    name: str
    nodes: tuple[str, ...]
    cpus: tuple[int, ...]
    gpus: tuple[int, ...] | None
    restart: int
    task: int | None
    folder: Path
    timeout_s: float
    least_nodes: int
    most_restarts: int

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Job:
        """Read the environment of the batch script.

        Raises
        ------
        UsageError
            If this is no SLURM job.
        EnvironmentFault
            If SLURM does not say how the GPUs of the job are spread over its nodes.
        """
        if "SLURM_JOB_ID" not in environment:
            raise UsageError("This is not a SLURM job.", "", "Submit it: sbatch slurm/sdoml_ray.sbatch build RECIPE")
        number = int(environment["SLURM_JOB_ID"])
        names = node_names(environment["SLURM_JOB_NODELIST"])
        cpus = per_node(environment.get("SLURM_JOB_CPUS_PER_NODE", f"1(x{len(names)})"))
        # The batch script runs on the first node, where the head belongs: its driver talks to it most.
        first = environment.get("SLURMD_NODENAME", names[0])
        order = sorted(range(len(names)), key=lambda index: names[index] != first)
        nodes = tuple(names[index] for index in order)
        name = job_name(environment)
        # A number for the whole job (sbatch --gpus) is the one that steps do not take their node's part of by themselves.
        spread = gpus_per_node(name) if environment.get("SLURM_GPUS") else None
        gpus = None if spread is None else tuple(spread.get(node, 0) for node in nodes)
        root = environment.get("SDOML_JOBS") or environment.get("SLURM_SUBMIT_DIR") or str(Path.cwd())
        task = environment.get("SLURM_ARRAY_TASK_ID")
        return cls(
            number, name, nodes, tuple(cpus[index] for index in order), gpus,
            int(environment.get("SLURM_RESTART_COUNT", "0")), int(task) if task else None,
            Path(root) / f"sdoml-job-{number}", _number(environment, "SDOML_NODES_TIMEOUT", 300),
            _number(environment, "SDOML_MIN_NODES", len(names)), _number(environment, "SDOML_MAX_RESTARTS", 50),
        )  # fmt: skip

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of Ray and of the driver; settings of the site win, except for the token."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        kept = {name: value for name, value in base.items() if name not in _NOT_INHERITED}
        ours = {name: value for name, value in _ENVIRONMENT.items() if name != _METRICS or not dashboard(base)}
        return {**ours, **kept, **token}

    def step(self, index: int) -> list[str]:
        """Return the command that runs a node."""
        # CPUs are named because a step does not inherit them (since SLURM 22.05); a step per node because one that is
        # lost must not take the others along; the environment because `sbatch --export` holds for steps as well.
        gpus = [] if self.gpus is None else [f"--gpus={self.gpus[index]}" if self.gpus[index] else "--gres=none"]
        return [
            "srun", "--export=ALL", *gpus, "--nodes=1", "--ntasks=1", f"--nodelist={self.nodes[index]}",
            f"--cpus-per-task={self.cpus[index]}", "--overlap", "--no-kill", "--kill-on-bad-exit=0", "--wait=0", "--unbuffered",
            sys.executable, "-m", "sdoml_dist.engine.slurm_node", str(self.folder), self.nodes[0],
        ]  # fmt: skip


def _number(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    """Read a setting of the site."""
    text = environment.get(name, "").strip()
    if text and not text.isdigit():
        raise UsageError(f"{name}={text} is not a whole number.", "", "Correct it in slurm/site.env.")
    return int(text) if text else otherwise
