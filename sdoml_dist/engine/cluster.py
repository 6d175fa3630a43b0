"""A Ray cluster to work on: the one that RAY_ADDRESS names, or a private one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Without keepalive a silently lost host leaves the driver waiting for ever on a connection that looks established.
_ENVIRONMENT = {
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Only receipts travel through the object store; the smallest store that Ray accepts is 75 MiB.
_OBJECT_STORE_BYTES = 128 * 2**20
# Ray puts sockets below its temporary folder; their paths may have 107 bytes, of which Ray itself takes about 60.
_LONGEST_TEMPORARY = 40
# How long nodes may take to say whether they see a folder.
_ANSWER_S = 120.0

if not os.environ.get("RAY_ADDRESS"):
    # Nobody looks at the metrics of a private Ray.
    _ENVIRONMENT["RAY_enable_metrics_collection"] = "0"
    # Whoever reaches a Ray can run what he likes, and other users of this machine reach loopback. Ray reads this once.
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        _ENVIRONMENT |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - Ray reads the environment when it is imported
import ray.data  # noqa: E402
import ray.util.metrics  # noqa: E402
from ray._private import ray_constants  # noqa: E402

logging.getLogger("ray.data").setLevel(logging.ERROR)

from sdoml_dist.engine.allocation import share  # noqa: E402
from sdoml_dist.engine.growth import await_node  # noqa: E402
from sdoml_dist.engine.head import heeding  # noqa: E402
from sdoml_dist.errors import EnvironmentFault  # noqa: E402
from sdoml_dist.recipe_base import Resources, Store  # noqa: E402
from sdoml_dist.report.text import human_bytes  # noqa: E402
from sdoml_dist.store.storage import local_path  # noqa: E402

logger = logging.getLogger("sdoml")

# Whether the Ray that this process is connected to is its own.
_started_here = False

__all__ = ["Cluster", "connect", "grown", "preflight", "ray", "unshared"]


@dataclass(frozen=True)
class Cluster:
    """What there is to work with.

    Attributes
    ----------
    private : bool
        Whether this process started the cluster and will end it.
    cpus, memory_bytes : float
        Sums over all nodes.
    largest_node_cpus, largest_node_memory_bytes : float
        What one actor can get at most.
    nodes : tuple of str
        Ids of the living nodes.
    elastic : bool
        Whether somebody else runs the cluster, who may let it grow.
    """

    private: bool
    cpus: float
    memory_bytes: float
    largest_node_cpus: float
    largest_node_memory_bytes: float
    nodes: tuple[str, ...]
    elastic: bool = False


def private_resources(cpus: int | None, environment: Mapping[str, str]) -> dict[str, int]:
    """Return what a private Ray may take: CPUs that this process may use, and of a SLURM job's memory what is left of it.

    Parameters
    ----------
    cpus : int or None
        CPUs, where the user says so.
    environment : mapping
        Of this process.
    """
    ours = share(environment)
    limits = {"num_cpus": cpus or ours.cpus}
    if "SLURM_JOB_ID" in environment:
        limits["_memory"] = ours.for_ray(head=True)[0]
    return limits


def _temporary_root() -> str:
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        value = os.environ.get(name)
        if value and len(value) <= _LONGEST_TEMPORARY and os.access(value, os.W_OK):
            return value
    return "/tmp"  # noqa: S108 - the folder below is made by mkdtemp


@contextlib.contextmanager
def connect(cpus: int | None = None, gpus: int | None = 0) -> Iterator[Cluster]:
    """Connect to the cluster that RAY_ADDRESS names, or start a private one and end it afterwards.

    Parameters
    ----------
    cpus : int, optional
        CPUs of a private cluster; by default those that this process may use.
    gpus : int, optional
        GPUs of a private cluster; None takes those that this process sees.

    Yields
    ------
    Cluster
        What there is to work with.

    Raises
    ------
    EnvironmentFault
        If the cluster cannot be reached or started.
    """
    global _started_here
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
    if ray.is_initialized():
        yield _describe(private=False, elastic=not _started_here)
        return
    temporary = None
    try:
        if address:
            with _silence():
                ray.init(address=address, **quiet)
        else:
            temporary = tempfile.mkdtemp(prefix="sdoml-", dir=_temporary_root())
            with _silence(), _loopback():
                ray.init(
                    address="local", num_gpus=gpus, include_dashboard=False, **private_resources(cpus, os.environ),
                    object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=temporary, **quiet,
                )  # fmt: skip
    except Exception as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        place = f"Ray at {address}" if address else "A private Ray on this machine"
        raise EnvironmentFault(
            f"{place} did not answer: {type(error).__name__}: {str(error)[:300]}",
            "Ray runs the units of work.",
            "Check RAY_ADDRESS and RAY_AUTH_MODE / RAY_AUTH_TOKEN_PATH (a missing token looks like a lost connection), "
            "or unset RAY_ADDRESS to work on this machine alone."
            if address
            else "See 'sdoml doctor'.",
        ) from error
    _started_here = temporary is not None
    with heeding(ray.get_runtime_context().gcs_address):
        try:
            yield _describe(private=_started_here, elastic=not _started_here)
        finally:
            _started_here = False
            ray.shutdown()
            if temporary:
                shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Start a Ray that no other machine reaches: by itself Ray listens on all interfaces."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Start Ray without its greeting on standard error and without its signal handlers (it exits 1 on SIGTERM)."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(kept)
        os.close(nowhere)


def _describe(private: bool, elastic: bool = False) -> Cluster:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cpus = [float(node["Resources"].get("CPU", 0)) for node in nodes]
    memory = [float(node["Resources"].get("memory", 0)) for node in nodes]
    ids = tuple(node["NodeID"] for node in nodes)
    return Cluster(private, sum(cpus), sum(memory), max(cpus), max(memory), ids, elastic)


def grown(cluster: Cluster, cpus: float, memory_bytes: int, wait_s: float = 900.0) -> Cluster:
    """Return the cluster as it is once an actor fits on one of its nodes, or as it is now if none ever will.

    Parameters
    ----------
    cluster : Cluster
        The cluster; only one that somebody else runs can grow.
    cpus : float
        CPUs of an actor.
    memory_bytes : int
        Memory of an actor.
    wait_s : float
        How long to wait for a node to start.
    """
    fits = cluster.largest_node_cpus >= cpus and cluster.largest_node_memory_bytes >= memory_bytes
    if fits or not cluster.elastic:
        return cluster
    logger.info("no node holds an actor yet; the cluster is asked for one")
    return _describe(cluster.private, cluster.elastic) if await_node(cpus, memory_bytes, wait_s) else cluster


def preflight(
    cluster: Cluster, store: Store, resources: Resources, memory_bytes: int, needed_bytes: int, smaller: str
) -> int:
    """Compare what a run demands with what is there, before anything starts.

    A cluster of somebody else, on which no actor fits yet, is asked to start a node and waited for.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    store : Store
        Where the dataset is.
    resources : Resources
        What the recipe allows.
    memory_bytes : int
        Memory of an actor.
    needed_bytes : int
        What will be written.
    smaller : str
        What to do where an actor is too large.

    Returns
    -------
    int
        How many actors fit now; more may, once the cluster has grown.

    Raises
    ------
    EnvironmentFault
        With everything that is missing.
    """
    cluster = grown(cluster, resources.cpus_per_actor, memory_bytes, resources.wait_for_nodes_s)
    problems = []
    if cluster.largest_node_cpus < resources.cpus_per_actor:
        problems.append(
            f"  an actor takes {resources.cpus_per_actor:g} CPUs, the largest node has {cluster.largest_node_cpus:g}"
        )
    if cluster.largest_node_memory_bytes < memory_bytes:
        problems.append(
            f"  an actor takes {human_bytes(memory_bytes)} of memory, the largest node offers "
            f"{human_bytes(cluster.largest_node_memory_bytes)}: {smaller}"
        )
    problems += _storage_problems(store, cluster, needed_bytes)
    if problems:
        raise EnvironmentFault(
            "The run would not get through:\n" + "\n".join(problems), "Nothing was started.", "Cure the lines above."
        )
    by_cpu = int(cluster.cpus // resources.cpus_per_actor)
    by_memory = int(cluster.memory_bytes // memory_bytes)
    fit = max(1, min(by_cpu, by_memory))
    return min(fit, resources.maximum_actors) if resources.maximum_actors else fit


def _storage_problems(store: Store, cluster: Cluster, needed: int) -> list[str]:
    folder = local_path(store.url)
    if folder is None:
        return []
    problems = []
    free = shutil.disk_usage(_existing_parent(folder)).free
    if free < needed:
        problems.append(f"  {folder} needs about {human_bytes(needed)} more, {human_bytes(free)} are free")
    if len(cluster.nodes) > 1:
        # The folder of a dataset has two entries, and a probe is neither.
        problems += unshared(folder, cluster, "sdoml")
    return problems


def _existing_parent(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def unshared(folder: Path, cluster: Cluster, below: str = "") -> list[str]:
    """Check that every node sees a folder: a probe file that is written here must be there.

    Parameters
    ----------
    folder : pathlib.Path
        The folder.
    cluster : Cluster
        Whose nodes are asked.
    below : str
        Where in the folder the probe is put for that time.

    Returns
    -------
    list of str
        Lines about nodes that do not see it; none if all do.
    """
    probe = folder / below / f".probe-{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("shared", encoding="ascii")
    try:
        look = ray.remote(num_cpus=0)(_sees)
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        answers = [
            look.options(scheduling_strategy=strategy(node, soft=False)).remote(str(probe)) for node in cluster.nodes
        ]
        blind = [host for host, sees in ray.get(answers, timeout=_ANSWER_S) if not sees]
    except ray.exceptions.GetTimeoutError:
        return [f"  not all nodes said within {_ANSWER_S:.0f} s whether they see {folder}"]
    finally:
        probe.unlink()
    if not blind:
        return []
    return [f"  {folder} is not shared: {', '.join(blind)} does not see it; use a shared folder or an object store"]


def _sees(path: str) -> tuple[str, bool]:
    return socket.gethostname(), Path(path).is_file()
