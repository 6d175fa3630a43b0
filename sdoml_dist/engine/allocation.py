"""What a SLURM job may use of a node, read from its environment: names, CPUs, memory, GPUs, ports, folders.

Nothing here talks to SLURM or Ray. Where SLURM, the affinity of the process and its control group disagree, the least counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from sdoml_dist.errors import EnvironmentFault, UsageError

MIB = 2**20
# sun_path of Linux's sockaddr_un has 108 bytes, the last of which is zero (man 7 unix).
_SOCKET_BYTES = 107
# Ray opens its temporary folder and its folder for spilled objects to everybody (mode 0777). So they are one level below ours.
RAY_FOLDER = "t"
# What Ray puts below ours, with the longest numbers there are.
_RAY_SOCKET = f"/{RAY_FOLDER}/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store.99"
# Sockets do not work, or crawl, on these.
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "fuse.sshfs", "panfs", "pvfs2")
_LEAST_FREE_BYTES = 512 * MIB
# Blocks of ports from 10000 up to where Linux begins to hand out ports by itself (net.ipv4.ip_local_port_range, 32768).
_FIRST_PORT, _BLOCK, _BLOCKS = 10_000, 16, 1_400
# A step to another block when one is taken; it has no factor in common with the number of blocks.
_STRIDE = 389
PORT_ATTEMPTS = 5
PORTS = (
    "gcs", "node_manager", "object_manager", "client_server", "dashboard", "dashboard_agent", "runtime_env_agent",
    "metrics",
)  # fmt: skip
# Ray wants at least 75 MiB; only receipts and blocks of tables pass through its store.
_SMALLEST_STORE, _LARGEST_STORE = 100 * MIB, 2048 * MIB


def node_names(text: str) -> list[str]:
    """Expand a list of nodes as SLURM writes it.

    Parameters
    ----------
    text : str
        For example ``node[01-03,07],gpu5``.

    Returns
    -------
    list of str
        Names in SLURM's order.

    Raises
    ------
    UsageError
        If it is not such a list.
    """
    return [name for part in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", text) for name in _expand(part)]


def _expand(pattern: str) -> Iterator[str]:
    before, bracket, rest = pattern.partition("[")
    if not bracket:
        yield before
        return
    inside, _, after = rest.partition("]")
    tails = list(_expand(after))
    for span in inside.split(","):
        first, dash, last = span.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"{pattern!r} is not a list of nodes.", "", "See SLURM_JOB_NODELIST of the job.")
        for number in range(int(first), int(last or first) + 1):
            yield from (f"{before}{number:0{len(first)}d}{tail}" for tail in tails)


def per_node(text: str) -> list[int]:
    """Expand numbers per node as SLURM writes them, for example ``4(x2),8``."""
    numbers = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise UsageError(f"{text!r} is not a list of numbers per node.", "", "See SLURM_JOB_CPUS_PER_NODE of the job.")
        numbers += [int(match[1])] * int(match[2] or 1)
    return numbers


@dataclass(frozen=True)
class Share:
    """What a job has of a node.

    Attributes
    ----------
    cpus : int
        CPUs.
    memory_bytes : int
        Memory of everything that the job runs there.
    gpus : int
        GPUs.
    """

    cpus: int
    memory_bytes: int
    gpus: int

    def for_ray(self, head: bool) -> tuple[int, int]:
        """Divide the memory.

        Parameters
        ----------
        head : bool
            Whether the cluster's services and the driver run on this node, too.

        Returns
        -------
        tuple of int
            What actors may take, and what the object store takes; the rest is for Ray's own processes.

        Raises
        ------
        EnvironmentFault
            If nothing is left for actors.
        """
        store = min(max(self.memory_bytes // 20, _SMALLEST_STORE), _LARGEST_STORE)
        own = min(1024 * MIB, self.memory_bytes // 5) * (2 if head else 1)
        actors = self.memory_bytes - own - store
        if actors < _SMALLEST_STORE:
            raise EnvironmentFault(
                f"The job has {self.memory_bytes / 1e9:.2f} GB of memory on a node; Ray's own processes take about "
                f"{own / 1e9:.2f} GB and its object store {store / 1e9:.2f} GB.",
                "Nothing would be left for the work.",
                "Ask for more: sbatch --mem=8G.",
            )
        return actors, store


def _number(environment: Mapping[str, str], name: str) -> int | None:
    match = re.match(r"\d+", environment.get(name, ""))
    return int(match[0]) if match else None


def _group_limits() -> tuple[float, float]:
    """Return the CPUs and the bytes of memory that the control groups of this process allow (version 1 and 2)."""
    cpus = memory = float("inf")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return cpus, memory
    for line in lines:
        _, controllers, place = line.split(":", 2)
        root = Path("/sys/fs/cgroup") / controllers if controllers else Path("/sys/fs/cgroup")
        here = root / place.lstrip("/")
        for folder in (here, *here.parents):
            memory = min(memory, *(_read_limit(folder / name) for name in ("memory.max", "memory.limit_in_bytes")))
            try:
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
                cpus = min(cpus, float(quota) / float(period))
            except (OSError, ValueError):
                pass
            if folder == root:
                break
    return cpus, memory


def _read_limit(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" is no limit
        return float("inf")


def share(environment: Mapping[str, str]) -> Share:
    """Return what this process may use of this node.

    Parameters
    ----------
    environment : mapping
        Of a step of the job, or of any process: what SLURM does not say is not limited by it. Where it does not say how
        much memory there is, the job has the part of the node's that its CPUs are of all CPUs.
    """
    group_cpus, group_memory = _group_limits()
    cpus = min(len(os.sched_getaffinity(0)), _number(environment, "SLURM_CPUS_ON_NODE") or 10**9)
    cpus = max(1, int(min(cpus, group_cpus)))
    whole = psutil.virtual_memory().total
    visible = [
        len([part for part in environment[name].split(",") if part.strip()])
        for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
        if name in environment
    ]
    gpus = _number(environment, "SLURM_GPUS_ON_NODE")
    if gpus is None:
        gpus = min(visible, default=0)
    else:
        gpus = min([gpus, *visible])
    if node := _number(environment, "SLURM_MEM_PER_NODE"):
        memory = node * MIB
    elif each := _number(environment, "SLURM_MEM_PER_CPU"):
        memory = each * MIB * cpus
    elif (each := _number(environment, "SLURM_MEM_PER_GPU")) and gpus:
        memory = each * MIB * gpus
    else:
        memory = whole * cpus // max(os.cpu_count() or 1, cpus)
    return Share(cpus, int(min(memory, whole, group_memory)), gpus)


def port_is_free(port: int) -> bool:
    """Whether nobody listens on a port of this node."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def ports(job: int, attempt: int = 0, free: Callable[[int], bool] = port_is_free) -> dict[str, int]:
    """Return the ports of a job on this node, all of one block.

    Parameters
    ----------
    job : int
        Number of the job; it chooses the block, so that jobs on one node have different ones.
    attempt : int
        How many blocks were tried in vain.
    free : callable
        Says whether a port is free.

    Raises
    ------
    EnvironmentFault
        If no block is free.
    """
    for step in range(_BLOCKS):
        first = _FIRST_PORT + _BLOCK * ((job + _STRIDE * (attempt + step)) % _BLOCKS)
        chosen = {name: first + index for index, name in enumerate(PORTS)}
        if all(map(free, chosen.values())):
            return chosen
    raise EnvironmentFault(
        f"No {len(PORTS)} ports in a row are free between {_FIRST_PORT} and {_FIRST_PORT + _BLOCK * _BLOCKS}.",
        "Ray's services need them.",
        "See what listens on this node: ss -ltn",
    )


def temporary_folder(environment: Mapping[str, str], job: int) -> Path:
    """Return the folder of the job for sockets and logs on this node, short enough and on a local file system.

    Parameters
    ----------
    environment : mapping
        ``SDOML_TMP``, else ``SLURM_TMPDIR``, else /tmp.
    job : int
        Number of the job.

    Raises
    ------
    EnvironmentFault
        If sockets cannot be there.
    """
    chosen = environment.get("SDOML_TMP")
    root = Path(chosen or environment.get("SLURM_TMPDIR") or "/tmp")  # noqa: S108 - the folder below is the job's own
    folder = root / f"r{job}"
    length = len(str(folder)) + len(_RAY_SOCKET)
    if length > _SOCKET_BYTES and not chosen:
        folder = Path("/tmp") / f"r{job}"  # noqa: S108
        length = len(str(folder)) + len(_RAY_SOCKET)
    if length > _SOCKET_BYTES:
        raise EnvironmentFault(
            f"{folder} is too long a path: {len(str(folder))} bytes and {len(_RAY_SOCKET)} of Ray's sockets below it are "
            f"{length}, a socket may have {_SOCKET_BYTES}.",
            "Ray could not start.",
            "Choose a shorter SDOML_TMP in slurm/site.env, for example /tmp.",
        )
    kind = _filesystem(folder)
    if kind in _NETWORK_FILESYSTEMS:
        raise EnvironmentFault(
            f"{folder} is on a network file system ({kind}).", "Sockets do not work there.",
            "Choose a local SDOML_TMP in slurm/site.env; SDOML_SPILL may be anywhere.",
        )  # fmt: skip
    _refuse_full(folder)
    return folder


def spill_folder(environment: Mapping[str, str], job: int, node: str, temporary: Path) -> Path:
    """Return where Ray puts objects that do not fit into memory; below ``SDOML_SPILL`` if that is set."""
    root = environment.get("SDOML_SPILL")
    if not root:
        return temporary / "spill"
    folder = Path(root) / f"sdoml-spill-{job}-{node}"
    _refuse_full(folder)
    return folder


def private_folder(folder: Path) -> None:
    """Make a folder that only this user can read and write; one that is there already has to be like that.

    Parameters
    ----------
    folder : pathlib.Path
        Its name can be guessed, and it may be in a place where everybody can make folders.

    Raises
    ------
    EnvironmentFault
        If somebody else made it, if it is no folder but for example a link, or if others can read or write it.
    """
    # Something that is there and no folder is told of below.
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    rights = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or rights & 0o077:
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no folder"
        raise EnvironmentFault(
            f"{folder} is there already: {kind} of user {found.st_uid} with mode {rights:04o}; this is user {os.geteuid()}, and "
            "the mode has to be 0700.",
            "Whoever can write there could take over the job's Ray.",
            "Remove it, or choose other folders in slurm/site.env (SDOML_TMP, SDOML_SPILL, SDOML_JOBS).",
        )


def _refuse_full(folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < _LEAST_FREE_BYTES:
        raise EnvironmentFault(
            f"{place} has {free / 1e9:.2f} GB free; {folder} needs {_LEAST_FREE_BYTES / 1e9:.1f} GB for logs and what "
            "does not fit into memory.",
            "A full disk ends a node in the middle of the work.",
            "Free some space, or choose SDOML_TMP and SDOML_SPILL in slurm/site.env.",
        )


def _filesystem(folder: Path) -> str:
    """Return the type of the file system that a folder is, or will be, on."""
    best, kind = "", ""
    for mount in psutil.disk_partitions(all=True):
        point = mount.mountpoint
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, mount.fstype
    return kind


def own_address(environment: Mapping[str, str], towards: str | None = None) -> str:
    """Return the IPv4 address under which the other nodes reach this one.

    Parameters
    ----------
    environment : mapping
        ``SDOML_IFACE`` names an interface, ``SLURMD_NODENAME`` the node.
    towards : str, optional
        An address of another node: the one that packets to it leave from.

    Raises
    ------
    EnvironmentFault
        If there is none.
    """
    own = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    if chosen := environment.get("SDOML_IFACE"):
        if not own.get(chosen):
            raise EnvironmentFault(
                f"SDOML_IFACE={chosen}, but this node's interfaces are "
                + ", ".join(f"{name} ({' '.join(entries) or 'no IPv4'})" for name, entries in own.items()),
                "The other nodes could not reach this one.",
                "Correct it in slurm/site.env.",
            )
        return own[chosen][0]
    outside = [address for entries in own.values() for address in entries if not address.startswith("127.")]
    if towards is not None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((towards, 9))
            leaving: str = probe.getsockname()[0]
        if leaving in outside:
            return leaving
    for name in (environment.get("SLURMD_NODENAME"), socket.gethostname()):
        try:
            found = socket.getaddrinfo(name, None, socket.AF_INET) if name else []
        except OSError:
            continue
        for entry in found:
            if str(entry[4][0]) in outside:
                return str(entry[4][0])
    if not outside:
        raise EnvironmentFault("This node has no IPv4 address but loopback.", "", "Set SDOML_IFACE in slurm/site.env.")
    return outside[0]
