"""What a job asks SLURM about itself, and tells it: the time that is left, GPUs per node, back into the queue."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from sdoml_dist.engine.allocation import node_names
from sdoml_dist.errors import EnvironmentFault

# A busy controller answers late; SLURM's own programs give up after some tens of seconds (MessageTimeout).
_ANSWER_S = 60.0


def job_name(environment: Mapping[str, str]) -> str:
    """Return how SLURM's programs call this job alone.

    The number of one task of an array is that of the whole array, so tasks are called by both numbers.

    Parameters
    ----------
    environment : mapping
        Of the job.
    """
    if (array := environment.get("SLURM_ARRAY_JOB_ID")) and (task := environment.get("SLURM_ARRAY_TASK_ID")):
        return f"{array}_{task}"
    return environment["SLURM_JOB_ID"]


def _ask(*command: str) -> tuple[str, str]:
    """Run one of SLURM's programs; return what it answers, and what went wrong ("" if nothing did)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)  # noqa: S603 - SLURM's own
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def requeue(name: str) -> str:
    """Put a job back into the queue; return why that failed, "" if it did not."""
    return _ask("scontrol", "requeue", name)[1]


def cancel(name: str) -> str:
    """Cancel a job; return why that failed, "" if it did not."""
    return _ask("scancel", name)[1]


def seconds_left(name: str) -> float | None:
    """Return how many seconds are left until the time limit of a job; None if SLURM does not say, inf without a limit."""
    return parse_time_left(_ask("squeue", "--noheader", f"--jobs={name}", "--format=%L")[0])


def parse_time_left(text: str) -> float | None:
    """Read a time as squeue writes it, for example ``1-02:03:04``, ``2:03:04`` or ``4:53``."""
    text = text.strip()
    if text == "UNLIMITED":
        return float("inf")
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def gpus_per_node(name: str) -> dict[str, int]:
    """Return how many GPUs a job has of each of its nodes.

    Raises
    ------
    EnvironmentFault
        If SLURM does not answer.
    """
    text, fault = _ask("scontrol", "--oneliner", "--details", "show", "job", name)
    if fault:
        raise EnvironmentFault(f"scontrol show job {name}: {fault}", "", "Ask for GPUs per node: sbatch --gpus-per-node=2")
    return parse_gpus(text)


def parse_gpus(text: str) -> dict[str, int]:
    """Read ``Nodes=a[1-2] CPU_IDs=0 Mem=100 GRES=gpu:a100:2(IDX:0-1)`` out of the details of a job."""
    found: dict[str, int] = {}
    for nodes, devices in re.findall(r"\bNodes=(\S+) CPU_IDs=\S* Mem=\S* GRES=(\S*)", text):
        number = sum(map(int, re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)(?:\(|,|$)", devices)))
        found |= dict.fromkeys(node_names(nodes), number)
    return found


def has_lost_its_script(name: str) -> bool:
    """Whether SLURM has a job running on nodes of which that of the batch script is none any more.

    So it is once the node of the script of a job with ``--no-kill`` is down; SLURM leaves the others running. False if it
    does not answer.
    """
    state, _, rest = _ask("squeue", "--noheader", f"--jobs={name}", "--format=%T|%N|%B")[0].strip().partition("|")
    nodes, _, host = rest.partition("|")
    return state == "RUNNING" and bool(host) and host not in node_names(nodes)
