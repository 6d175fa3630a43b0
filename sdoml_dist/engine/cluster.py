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
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
# How long nodes may take to answer, all of them.
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
from sdoml_dist.engine.nodes import Cluster, Node  # noqa: E402
from sdoml_dist.errors import EnvironmentFault  # noqa: E402
from sdoml_dist.recipe_base import Resources, Store  # noqa: E402
from sdoml_dist.report.text import human_bytes  # noqa: E402
from sdoml_dist.store.storage import local_path  # noqa: E402

logger = logging.getLogger("sdoml")

# Whether the Ray that this process is connected to is its own.
_started_here = False

__all__ = ["Cluster", "Node", "ask", "connect", "grown", "preflight", "ray", "unshared"]

_Answer = TypeVar("_Answer")


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
    nodes = [
        Node(node["NodeID"], *(float(node["Resources"].get(name, 0)) for name in ("CPU", "memory", "GPU")))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return Cluster(private, tuple(nodes), elastic)


def grown(cluster: Cluster, cpus: float, memory_bytes: int, wait_s: float = 900.0, *, gpus: float = 0.0) -> Cluster:
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
    gpus : float
        GPUs of an actor.
    """
    if cluster.fits(cpus, memory_bytes, gpus) or not cluster.elastic:
        return cluster
    logger.info("no node holds an actor yet; the cluster is asked for one")
    await_node(cpus, memory_bytes, wait_s, gpus)
    return _describe(cluster.private, cluster.elastic)


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
    misfits = cluster.misfits("an actor", resources.cpus_per_actor, memory_bytes, smaller=smaller)
    problems = [f"  {line}" for line in misfits]
    problems += _storage_problems(store, cluster, needed_bytes)
    if problems:
        raise EnvironmentFault(
            "The run would not get through:\n" + "\n".join(problems), "Nothing was started.", "Cure the lines above."
        )
    fit = cluster.room(resources.cpus_per_actor, memory_bytes)
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
        Lines about nodes that do not see it, or do not say so; none if all do. Nodes that have gone meanwhile do not count.
    """
    probe = folder / below / f".probe-{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("shared", encoding="ascii")
    try:
        answers, silent = ask(cluster.nodes, _sees, str(probe))
    finally:
        probe.unlink()
    problems = [f"  not all nodes said whether they see {folder}: {line}" for line in silent]
    if blind := [host for _, (host, sees) in answers if not sees]:
        problems.append(
            f"  {folder} is not shared: {', '.join(blind)} does not see it; use a shared folder or an object store"
        )
    return problems


def ask(
    nodes: Iterable[Node], question: Callable[..., _Answer], *arguments: object
) -> tuple[list[tuple[Node, _Answer]], list[str]]:
    """Ask every node something that takes none of its CPUs.

    Parameters
    ----------
    nodes : iterable of Node
        The nodes.
    question : callable
        What runs on each.
    *arguments
        What it is given.

    Returns
    -------
    tuple of list
        Nodes with their answers, and lines about those that are there and did not answer. A node that has gone since it was
        listed, as spot nodes do, is in neither.
    """
    task = ray.remote(num_cpus=0)(question)
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = [(node, task.options(scheduling_strategy=strategy(node.id, soft=False)).remote(*arguments)) for node in nodes]
    deadline = time.monotonic() + _ANSWER_S
    answers, faults = [], []
    for node, reply in asked:
        try:
            answers.append((node, ray.get(reply, timeout=max(deadline - time.monotonic(), 0.0))))
        except ray.exceptions.GetTimeoutError:
            faults.append((node, f"no answer within {_ANSWER_S:.0f} s"))
        except ray.exceptions.RayError as error:
            faults.append((node, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:200]}"))
    silent: dict[str, list[str]] = {}
    if faults:
        living = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        for node, why in faults:
            if node.id in living:
                silent.setdefault(why, []).append(living[node.id])
    return answers, [f"{', '.join(hosts)}: {why}" for why, hosts in silent.items()]


def _sees(path: str) -> tuple[str, bool]:
    return socket.gethostname(), Path(path).is_file()
