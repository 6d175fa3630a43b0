"""Whether actors fit on a cluster is asked node by node, and nodes that go while they are asked do no harm."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.engine import cluster as clusters
from sdoml_dist.engine import export as exporting
from sdoml_dist.engine.cluster import ask, preflight, ray, unshared
from sdoml_dist.engine.growth import await_node
from sdoml_dist.engine.network_pool import network_pool
from sdoml_dist.engine.nodes import Cluster, Node
from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.recipe_base import Resources, Store
from sdoml_dist.training import preflight as trainings
from sdoml_dist.training.config import Workers

GB = 10**9
HEAD = Node("head", 0, 64 * GB)
SMALL = Node("small", 4, 4 * GB)
GONE = Node("a" * 56, 1, GB)


def pool(cluster: Cluster, memory_bytes: int, gpus: bool | None = None, **options: Any) -> Any:
    return network_pool(cluster, "A worker", memory_bytes, 100, gpus, **options)


def test_an_actor_needs_one_node_that_has_all_it_takes() -> None:
    cluster = Cluster(False, (HEAD, SMALL, SMALL))
    assert (cluster.cpus, cluster.memory_bytes) == (8, 72 * GB)
    # Sums and the largest of each would say 7, or yes.
    assert cluster.room(1, 2 * GB) == 4
    assert cluster.room(3, 2 * GB) == 2
    assert not cluster.fits(1, 8 * GB)
    assert cluster.misfits("X", 1, 4 * GB) == []
    assert cluster.misfits("X", 1, 8 * GB, smaller="do") == [
        "X takes 8 GB of memory, the largest node with 1 CPU offers 4 GB: do"
    ]
    assert cluster.misfits("X", 1, 80 * GB) == ["X takes 80 GB of memory, the largest node with 1 CPU offers 4 GB"]
    assert cluster.misfits("X", 6, 80 * GB) == [
        "X takes 6 CPUs, the largest node has 4", "X takes 80 GB of memory, the largest node offers 64 GB",
    ]  # fmt: skip
    assert cluster.misfits("X", 1, GB, 1) == ["X takes 1 CPU and 1 GPUs, no node has both"]
    assert Cluster(False, ()).misfits("X", 1, GB) == [
        "X takes 1 CPU, the largest node has 0", "X takes 1 GB of memory, the largest node offers 0 B",
    ]  # fmt: skip
    # A tenth of a CPU has no exact number.
    assert Node("n", 0.3, GB).room(0.1, 1) == 3


@pytest.mark.parametrize(
    ("nodes", "told"),
    [((HEAD,), "takes 1 CPU, the largest node has 0"), ((HEAD, SMALL), "largest node with 1 CPU offers 4 GB")],
    ids=["no CPUs", "apart"],
)
@pytest.mark.parametrize("elastic", [False, True])
def test_what_no_node_holds_is_refused_and_not_waited_for(
    nodes: tuple[Node, ...], told: str, elastic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(False, nodes, elastic)
    asked: list[float] = []
    monkeypatch.setattr(clusters, "_describe", lambda *_, **__: cluster)
    monkeypatch.setattr(clusters, "await_node", lambda cpus, *_: asked.append(cpus))
    with pytest.raises(EnvironmentFault, match=told):
        pool(cluster, 8 * GB)
    with pytest.raises(EnvironmentFault, match=told):
        preflight(cluster, Store(url="s3://b/d"), Resources(cpus_per_actor=1), 8 * GB, 0, "make it smaller")
    monkeypatch.setattr(exporting, "_WORKER_BASE_BYTES", 8 * GB)
    with pytest.raises(EnvironmentFault, match=told):
        exporting._memory([], 120, [], cluster)
    # A cluster that may grow was asked to.
    assert asked == ([1, 1, 1] if elastic else [])


def test_a_cluster_that_grows_is_taken_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Cluster(False, (HEAD, Node("large", 4, 20 * GB)), elastic=True)
    monkeypatch.setattr(clusters, "await_node", lambda *_: True)
    monkeypatch.setattr(clusters, "_describe", lambda *_, **__: grown)
    assert pool(Cluster(False, (HEAD,), elastic=True), 8 * GB)[1] == 2
    resources = Resources(cpus_per_actor=1)
    assert preflight(Cluster(False, (HEAD,), elastic=True), Store(url="s3://b/d"), resources, 8 * GB, 0, "") == 2


def test_what_was_asked_for_is_cancelled_only_while_it_waits(ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray can end the driver where a task is cancelled that has just been done."""
    cancelled: list[Any] = []
    cancel = ray.cancel
    monkeypatch.setattr(ray, "cancel", lambda task, **options: (cancelled.append(task), cancel(task, **options)))
    assert await_node(1, GB, 60.0)
    assert not cancelled
    assert not await_node(99, GB, 1.5)
    assert len(cancelled) == 1


def test_pools_count_actors_node_by_node() -> None:
    cluster = Cluster(False, (HEAD, SMALL, SMALL))
    size, fit = pool(cluster, 2 * GB)
    assert (fit, size.minimum, size.maximum, size.gpus) == (4, 1, 100, 0.0)
    size, fit = pool(replace(cluster, private=True), 2 * GB)
    assert (fit, size.minimum, size.maximum) == (4, 4, 4)
    # One CPU is left to those who write, or half of the only one.
    assert pool(cluster, GB)[1] == 8
    assert pool(cluster, GB, writers=True)[1] == 7
    size, fit = pool(Cluster(True, (Node("one", 1, 8 * GB),)), GB, writers=True)
    assert (fit, size.cpus) == (1, 0.5)
    resources = Resources(cpus_per_actor=1)
    assert preflight(cluster, Store(url="s3://b/d"), resources, 2 * GB, 0, "") == 4


def test_gpus_count_where_a_worker_fits_beside_them() -> None:
    with_gpus = Node("gpu", 4, 16 * GB, gpus=2)
    size, fit = pool(Cluster(False, (SMALL, with_gpus)), 2 * GB)
    assert (fit, size.gpus) == (2, 1.0)
    size, fit = pool(Cluster(False, (SMALL, with_gpus)), 2 * GB, gpus=False)
    assert (fit, size.gpus) == (6, 0.0)
    # This one's GPU is of no use to a worker that its memory does not hold.
    size, fit = pool(Cluster(False, (SMALL, Node("little", 4, GB, gpus=1))), 2 * GB)
    assert (fit, size.gpus) == (2, 0.0)
    with pytest.raises(EnvironmentFault, match="takes 1 CPU and 1 GPUs, no node has both"):
        pool(Cluster(False, (SMALL,)), 2 * GB, gpus=True)


def shared_of_training(folder: Path, cluster: Cluster) -> list[str]:
    """Return the lines of a preflight of a training."""
    try:
        trainings.preflight(cluster, folder, Workers(number=1, cpus=0.5, device="cpu"))
    except EnvironmentFault as fault:
        return str(fault).splitlines()[1:-2]
    return []


@pytest.mark.parametrize("check", [unshared, shared_of_training])
def test_nodes_that_go_while_they_are_asked_are_left_out(
    check: Callable[[Path, Cluster], list[str]], ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot node that was listed and is gone: Ray refuses its task by an error of its own."""
    cluster = replace(ray_cluster, nodes=(GONE, *ray_cluster.nodes))
    answers, silent = ask(cluster.nodes, lambda: "here")
    assert (answers, silent) == ([(ray_cluster.nodes[0], "here")], [])
    assert check(tmp_path, cluster) == []
    # One that is there and cannot answer, or does not, is a problem and no error of the program.
    def fails(path: str) -> Any:
        raise PermissionError(13, "not for you", path)

    def sleeps(path: str) -> Any:
        time.sleep(5)

    for question, told, patience_s in ((fails, "PermissionError.*not for you", 120.0), (sleeps, "no answer within 1 s", 1.0)):
        with monkeypatch.context() as patch:
            patch.setattr(clusters, "_ANSWER_S", patience_s)
            patch.setattr(clusters, "_sees", question)
            patch.setattr(trainings, "_answer", question)
            (line,) = check(tmp_path, cluster)
        assert line.startswith("  not all nodes said whether they")
        assert str(tmp_path) in line
        assert re.search(told, line), line
    assert list(tmp_path.iterdir()) == []
