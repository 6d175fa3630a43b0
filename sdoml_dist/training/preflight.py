"""Before workers start: whether they fit into the cluster, and whether all nodes share the run's folder."""

from __future__ import annotations

import shutil
import socket
import uuid
from pathlib import Path

from sdoml_dist.engine.cluster import Cluster, ask, ray
from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.training.config import Workers


def preflight(cluster: Cluster, folder: Path, workers: Workers) -> bool:
    """Compare what a training demands with what is there.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    folder : pathlib.Path
        Folder of the run.
    workers : Workers
        What is demanded.

    Returns
    -------
    bool
        Whether every worker gets a GPU.

    Raises
    ------
    EnvironmentFault
        With everything that is missing.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = [(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))) for node in nodes]
    with_gpu = sum(_fit(cpus, gpus, workers.cpus, 1.0) for cpus, gpus in resources)
    use_gpu = workers.device == "gpu" or (workers.device == "auto" and with_gpu >= workers.number)
    room = with_gpu if use_gpu else sum(_fit(cpus, 0.0, workers.cpus, 0.0) for cpus, _ in resources)
    problems = []
    if room < workers.number:
        cpus, gpus = (sum(values) for values in zip(*resources, strict=True))
        problems.append(
            f"  {workers.number} workers of {workers.cpus:g} CPUs{' and a GPU' if use_gpu else ''} do not fit: there is room "
            f"for {room} ({cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes); lower workers.number or workers.cpus"
        )
    if len(cluster.nodes) > 1:
        problems += _unshared(folder, cluster)
    if problems:
        raise EnvironmentFault(
            "The training would not get through:\n" + "\n".join(problems), "Nothing was started.", "Cure the lines above."
        )
    return use_gpu


def _fit(cpus: float, gpus: float, cpus_each: float, gpus_each: float) -> int:
    """Return how many workers fit on a node."""
    by_cpu = int(cpus / cpus_each + 1e-9)
    return min(by_cpu, int(gpus / gpus_each)) if gpus_each else by_cpu


def _unshared(folder: Path, cluster: Cluster) -> list[str]:
    """Check that every node reads here what the driver writes, and that the driver reads what each node writes."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.mkdir(parents=True)
    try:
        (probe / "driver").write_text("shared", encoding="ascii")
        answers, silent = ask(cluster.nodes, _answer, str(probe))
        problems = [f"  not all nodes said whether they share {folder}: {line}" for line in silent]
        for node, (host, problem) in answers:
            if problem is None and not (probe / node.id).is_file():
                problem = "writes somewhere else"
            if problem is not None:
                problems.append(f"  {folder} is not shared: {host} {problem}; set output to a shared folder")
        return problems
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _answer(probe: str) -> tuple[str, str | None]:
    """Read the driver's file and write one with the node's id; runs on a node."""
    host = socket.gethostname()
    if not (Path(probe) / "driver").is_file():
        return host, "does not see it"
    try:
        (Path(probe) / ray.get_runtime_context().get_node_id()).write_text("shared", encoding="ascii")
    except OSError as error:
        return host, f"cannot write there ({error.strerror})"
    return host, None
