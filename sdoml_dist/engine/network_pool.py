"""Pools of workers that each hold a trained network: how many fit, on CPUs or GPUs."""

from __future__ import annotations

from sdoml_dist.engine.cluster import Cluster, grown, ray
from sdoml_dist.engine.pool import PoolSize
from sdoml_dist.engine.zarr_sink import WRITER_CPUS
from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.report.text import human_bytes


def network_pool(
    cluster: Cluster, who: str, memory_bytes: int, units: int, gpus: bool | None, *, writers: bool = False
) -> tuple[PoolSize, int]:
    """Return the size of a pool, once the cluster has a node for one of its workers.

    Parameters
    ----------
    cluster : Cluster
        Where it will run.
    who : str
        What a worker is called where it does not fit.
    memory_bytes : int
        Memory of a worker.
    units : int
        Units of work.
    gpus : bool or None
        Whether a worker takes a GPU; None: if the cluster has any.
    writers : bool
        Whether something is to be left to tasks that write what the workers make.

    Returns
    -------
    tuple of (PoolSize, int)
        The pool, and how many workers fit now. On a cluster of others the pool may grow beyond that, with it.

    Raises
    ------
    EnvironmentFault
        If a worker fits on no node.
    """
    cluster = grown(cluster, 1, memory_bytes)
    if cluster.largest_node_memory_bytes < memory_bytes:
        raise EnvironmentFault(
            f"{who} takes {human_bytes(memory_bytes)} of memory, the largest node offers "
            f"{human_bytes(cluster.largest_node_memory_bytes)}.",
        )
    devices = sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
    use = devices > 0 if gpus is None else gpus
    # Something is left to those who write, of a single CPU too.
    each = WRITER_CPUS if writers and cluster.cpus < 1 + WRITER_CPUS else 1.0
    fit = int(max(1, min(devices if use else cluster.cpus - writers, cluster.memory_bytes // memory_bytes)))
    least = fit if cluster.private and not writers else 1
    return PoolSize(least, fit if cluster.private else units, each, memory_bytes, gpus=1.0 if use else 0.0), fit
