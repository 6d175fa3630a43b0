"""What a cluster has, node by node: whether an actor fits on one of them, and how many fit on all."""

from __future__ import annotations

from dataclasses import dataclass

from sdoml_dist.report.text import human_bytes


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes
    ----------
    id : str
        Ray's name of it.
    cpus, memory_bytes, gpus : float
        What actors may take of it.
    """

    id: str
    cpus: float
    memory_bytes: float
    gpus: float = 0.0

    def room(self, cpus: float, memory_bytes: float, gpus: float = 0.0) -> int:
        """Return how many actors fit; each takes some memory and may take CPUs and GPUs."""
        room = int(self.memory_bytes // memory_bytes)
        for has, takes in ((self.cpus, cpus), (self.gpus, gpus)):
            if takes > 0:
                # Three times 0.1 CPUs are a little more than 0.3.
                room = min(room, int(has / takes + 1e-9))
        return room


@dataclass(frozen=True)
class Cluster:
    """What there is to work with.

    Attributes
    ----------
    private : bool
        Whether this process started the cluster and will end it.
    nodes : tuple of Node
        The living nodes.
    elastic : bool
        Whether somebody else runs the cluster, who may let it grow.
    """

    private: bool
    nodes: tuple[Node, ...]
    elastic: bool = False

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def memory_bytes(self) -> float:
        """Memory of all nodes."""
        return sum(node.memory_bytes for node in self.nodes)

    def room(self, cpus: float, memory_bytes: float, gpus: float = 0.0) -> int:
        """Return how many actors fit, each on one node.

        Parameters
        ----------
        cpus, memory_bytes, gpus : float
            What an actor takes.
        """
        return sum(node.room(cpus, memory_bytes, gpus) for node in self.nodes)

    def fits(self, cpus: float, memory_bytes: float, gpus: float = 0.0) -> bool:
        """Whether one node has all that an actor takes."""
        return self.room(cpus, memory_bytes, gpus) > 0

    def misfits(self, who: str, cpus: float, memory_bytes: float, gpus: float = 0.0, *, smaller: str = "") -> list[str]:
        """Return why an actor fits on no node; nothing if it does.

        Parameters
        ----------
        who : str
            What it is called.
        cpus, memory_bytes, gpus : float
            What it takes.
        smaller : str
            What to do where it takes too much memory.
        """
        if self.fits(cpus, memory_bytes, gpus):
            return []
        lines = []
        able = [node for node in self.nodes if node.cpus >= cpus and node.gpus >= gpus]
        if not able:
            most_cpus = max((node.cpus for node in self.nodes), default=0.0)
            if most_cpus < cpus:
                lines.append(f"{who} takes {_cpus(cpus)}, the largest node has {most_cpus:g}")
            else:
                lines.append(f"{who} takes {_cpus(cpus)} and {gpus:g} GPUs, no node has both")
        most = max((node.memory_bytes for node in self.nodes), default=0.0)
        offered = max((node.memory_bytes for node in able), default=most)
        if offered < memory_bytes:
            which = "" if offered == most else f" with {_cpus(cpus)}" + (f" and {gpus:g} GPUs" if gpus else "")
            lines.append(
                f"{who} takes {human_bytes(memory_bytes)} of memory, the largest node{which} offers {human_bytes(offered)}"
                + (f": {smaller}" if smaller else "")
            )
        return lines


def _cpus(number: float) -> str:
    return f"{number:g} CPU" + ("" if number == 1 else "s")
