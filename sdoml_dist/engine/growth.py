"""Clusters that grow: ask for the first node that an actor fits on, and wait for it.

An autoscaler starts nodes for work that is waiting. A cluster whose head takes no work therefore has no node at all before
a run asks for one; what it could grow to is known to its autoscaler only, and that is asked by a task with the demands of an
actor. Version 2 of the autoscaler says within seconds if no type of node can ever hold it.
"""

from __future__ import annotations

import logging
import time

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2

logger = logging.getLogger("sdoml")

_POLL_S = 1.0
_TELL_S = 30.0
# A demand counts as hopeless if the autoscaler says so in this many answers: a node type that it has just tried in vain is
# left out for a while.
_REFUSALS = 3


def await_node(cpus: float, memory_bytes: int, wait_s: float, gpus: float = 0.0) -> bool:
    """Wait for a node that an actor fits on.

    Parameters
    ----------
    cpus : float
        CPUs of an actor.
    memory_bytes : int
        Memory of an actor.
    wait_s : float
        How long to wait at most.
    gpus : float
        GPUs of an actor.

    Returns
    -------
    bool
        Whether there is one now; False as soon as the autoscaler says that there never will be, or there is none.
    """
    probe = ray.remote(num_cpus=cpus, num_gpus=gpus or None, memory=memory_bytes, max_retries=-1)(_here).remote()
    began = told = time.monotonic()
    refusals, done = 0, False
    try:
        while time.monotonic() - began < wait_s:
            if ray.wait([probe], timeout=_POLL_S)[0]:
                done = True
                ray.get(probe)
                return True
            refusals = refusals + 1 if _hopeless({"CPU": cpus, "memory": memory_bytes, "GPU": gpus}) else 0
            if refusals >= _REFUSALS:
                return False
            if time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                logger.info("waiting for the cluster to start a node: %.0f s so far", told - began)
        return False
    finally:
        # Ray ends this process if a task is cancelled while it is taken from the list of those that are pending.
        if not done:
            ray.cancel(probe, force=True)


def _here() -> None:
    """Take the place of an actor."""


def _hopeless(demand: dict[str, float]) -> bool:
    """Whether the autoscaler reports a demand like this one as one that no type of node can hold."""
    try:
        reply = GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=5)
    except ray.exceptions.RpcError:
        return False
    state = autoscaler_pb2.GetClusterStatusReply.FromString(reply).autoscaling_state
    return any(
        all(request.resources_bundle.get(name, 0.0) == amount for name, amount in demand.items())
        for request in state.infeasible_resource_requests
    )
