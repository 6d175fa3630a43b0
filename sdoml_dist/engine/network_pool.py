"""Pools of workers that each hold a trained network: how many fit, on CPUs or GPUs; and whether what they write gets together."""

from __future__ import annotations

from collections.abc import Sequence

from sdoml_dist.engine.cluster import Cluster, grown, unshared
from sdoml_dist.engine.pool import PoolSize
from sdoml_dist.engine.zarr_sink import WRITER_CPUS
from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.storage import local_path


def network_pool(
    cluster: Cluster, who: str, memory_bytes: int, units: int, gpus: bool | None, *, output: Store | None = None,
    writers: bool = False,
) -> tuple[PoolSize, int]:  # fmt: skip
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
    output : Store, optional
        Where the workers write: a folder has to be shared by all nodes.
    writers : bool
        Whether something is to be left to tasks that write what the workers make.

    Returns
    -------
    tuple of (PoolSize, int)
        The pool, and how many workers fit now. On a cluster of others the pool may grow beyond that, with it.

    Raises
    ------
    EnvironmentFault
        If a worker fits on no node, or some nodes do not see the folder.
    """
    each_gpus = 1.0 if gpus else 0.0
    cluster = grown(cluster, 1, memory_bytes, gpus=each_gpus)
    if lines := cluster.misfits(who, 1, memory_bytes, each_gpus):
        raise EnvironmentFault(". ".join(lines) + ".", "Nothing was started.", "Use larger nodes.")
    if gpus is None and cluster.fits(1, memory_bytes, 1):
        each_gpus = 1.0
    if output is not None:
        refuse_unshared(output, cluster)
    # Something is left to those who write, of a single CPU too.
    each = WRITER_CPUS if writers and cluster.cpus < 1 + WRITER_CPUS else 1.0
    fit = max(1, min(cluster.room(each, memory_bytes, each_gpus), int(cluster.cpus - writers)))
    least = fit if cluster.private and not writers else 1
    return PoolSize(least, fit if cluster.private else units, each, memory_bytes, gpus=each_gpus), fit


def refuse_unshared(output: Store, cluster: Cluster) -> None:
    """Refuse to let the nodes of a cluster write into a folder that is another one on each of them.

    Parameters
    ----------
    output : Store
        Where they would write; object stores are one for all.
    cluster : Cluster
        The nodes that are there now.

    Raises
    ------
    EnvironmentFault
        With the nodes that do not see what is written here.
    """
    folder = local_path(output.url)
    if folder is None or len(cluster.nodes) < 2:
        return
    if lines := unshared(folder, cluster):
        raise EnvironmentFault(
            "What workers write would not get together:\n" + "\n".join(lines),
            "Each node would write into a folder of its own. Nothing was started.", "Cure the lines above.",
        )  # fmt: skip


def refuse_missing(output: Store, names: Sequence[str], what: str) -> None:
    """Refuse to end as complete while something that workers have written is not there.

    Parameters
    ----------
    output : Store
        Where it should be.
    names : sequence of str
        What is missing.
    what : str
        What these are.

    Raises
    ------
    EnvironmentFault
        If there is any.
    """
    if names:
        raise EnvironmentFault(
            f"{len(names)} {what} were written and are not at {output.url}; the first: {names[0]}",
            "A node that joined during the run does not share this folder, or something has removed them.",
            "Give a folder that all nodes share or an object store; the same command makes what is missing.",
        )
