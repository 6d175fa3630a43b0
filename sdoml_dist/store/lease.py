"""The lease of a dataset: one committing driver at a time.

File storage silently loses commits of concurrent committers, and two drivers would do all work twice. The lease is a
small object created only if absent (``O_EXCL`` or ``If-None-Match``), renewed while its holder lives. A holder that
is dead on the same machine is replaced at once, one elsewhere after its lease has run out. Clocks of two machines may
differ: before a lease from elsewhere is broken it is watched for more than two renewals, by this machine's own clock.

Independent parts of one plan are driven at the same time. Each holds a lease of its own for as long as it runs, and the
dataset's only while it commits; others wait for that. A driver that works alone is refused while parts run.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import random
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Literal, Self

from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.paths import refuse_copy
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.storage import environment_fault, join, local_path, os_errors, sidecar_filesystem, write_atomic

RENEW_S = 5.0
LIFETIME_S = 30.0
# How long a lease from elsewhere is watched that has run out by its stamp: a holder who lives renews it twice meanwhile.
SILENT_S = 2 * RENEW_S + 2.0
_NAME = "lease.json"
_PART = "part-{}-of-{}.json"
# How long a part waits for others that commit, one after the other.
_TURN_S = 600.0


def _process_start(pid: int) -> str | None:
    """Return what tells a process from a later one with the same number, or None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def _machine() -> str:
    """Return what tells one boot of one machine (or container) from another."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(str(Path(path).readlink()) if path.endswith("ns/pid") else Path(path).read_text().strip())
    return "|".join(parts)


def _user() -> str:
    """Return the name of this process's user, or its number: in a container it may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # without an entry in passwd; the error depends on Python's version
        return str(os.getuid())


class Lease:
    """Hold the right to commit to a dataset; a context manager.

    Parameters
    ----------
    store : Store
        The dataset.
    purpose : str
        What the holder does, told to those who are refused.
    wait_s : float
        How long to wait for a holder that lives, or may: for the lease of one on another machine to run out. A lease that
        has run out by its stamp is watched for `SILENT_S` all the same, and not refused if its holder is dead.
    part : tuple of int, optional
        Number and count of parts: hold the lease of this part instead of the dataset's.
    turn : bool
        Hold the dataset's lease for a commit of a part: parts may run meanwhile.
    """

    def __init__(
        self, store: Store, purpose: str, wait_s: float = 0.0, *, part: tuple[int, int] | None = None, turn: bool = False
    ) -> None:
        self.store, self.purpose, self.wait_s = store, purpose, wait_s
        self._name = _NAME if part is None else _PART.format(*part)
        self._alone = part is None and not turn
        # Until it is known that no part runs, a driver's hold is as short as a turn.
        self._turn = turn or self._alone
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._renewed = 0.0
        # What was last read of leases from elsewhere, and since when (s of this machine's monotonic clock).
        self._seen: dict[str, tuple[dict[str, Any], float]] = {}
        self._thread: threading.Thread | None = None

    def _record(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "user": _user(),
            "purpose": self.purpose,
            "turn": self._turn,
            "since": self._since,
            "renewed_unix_s": time.time(),
        }

    @os_errors()
    def _read(self, name: str | None = None) -> dict[str, Any] | None:
        filesystem, folder = sidecar_filesystem(self.store)
        try:
            record: dict[str, Any] = json.loads(filesystem.cat_file(join(folder, name or self._name)))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            return {"renewed_unix_s": 0.0}
        return record

    @os_errors()
    def _create(self, name: str | None = None) -> bool:
        """Create the lease if there is none; whether this succeeded."""
        name = name or self._name
        data = json.dumps(self._record()).encode()
        local = local_path(self.store.url)
        if local is None:
            filesystem, folder = sidecar_filesystem(self.store)
            try:
                filesystem.pipe_file(join(folder, name), data, mode="create")
            except FileExistsError:
                return False
            return True
        path = local / "sdoml" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{name}.{self._token}")
        temporary.write_bytes(data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _look(self, name: str) -> tuple[dict[str, Any] | None, float]:
        """Read a lease; return it and for how long it has been seen unchanged, s."""
        began = time.monotonic()
        record = self._read(name)
        if record is None:
            self._seen.pop(name, None)
            return None, 0.0
        before = self._seen.get(name)
        if before is None or before[0] != record:
            self._seen[name] = record, time.monotonic()
            return record, 0.0
        return record, began - before[1]

    def _holder(self, name: str) -> tuple[dict[str, Any] | None, Literal["lives", "silent", "dead"]]:
        """Read a lease; return it and whether its holder lives, is dead, or has to be watched to know."""
        before = self._seen.get(name)
        record, unchanged_s = self._look(name)
        if record is None:
            return None, "dead"
        if record.get("machine") == _machine():
            started = _process_start(int(record.get("pid", 0)))
            return record, "dead" if started is None or started != record.get("process_start") else "lives"
        if before is not None and before[0] != record:
            return record, "lives"
        # A stamp far in the future says as little about its holder as one far in the past.
        current = abs(time.time() - float(record.get("renewed_unix_s", 0.0))) <= LIFETIME_S
        if unchanged_s > (LIFETIME_S if current else SILENT_S):
            return record, "dead"
        return record, "lives" if current else "silent"

    @os_errors()
    def _remove(self, name: str) -> None:
        filesystem, folder = sidecar_filesystem(self.store)
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(join(folder, name))

    def _release(self, token: str | None) -> None:
        """Remove a lease, unless it has changed hands meanwhile."""
        if (self._read() or {}).get("token") == token:
            self._remove(self._name)

    def _break(self, name: str, record: dict[str, Any]) -> None:
        """Remove a dead holder's lease.

        Many may wait for it and find it dead at the same moment. One of them removes it: the one that can create its
        tombstone. Otherwise a slow one would remove the lease that a quick one has created since.
        """
        tombstone = f"{name}.{record.get('token', 'damaged')}.dead"
        if self._create(tombstone):
            try:
                # A holder that has woken up has renewed it.
                if self._read(name) == record:
                    self._remove(name)
            finally:
                self._remove(tombstone)
        elif self._look(tombstone)[1] > LIFETIME_S:
            # Whoever was about to remove it died as well.
            self._remove(tombstone)
        else:
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - only so that waiters do not come all at once

    def __enter__(self) -> Self:
        """Take the lease.

        Raises
        ------
        EnvironmentFault
            If another driver holds it, or if the store does not keep to conditional writes.
        UsageError
            If the place is a job's copy of its working folder.
        """
        refuse_copy(self.store.url, "The dataset or run")
        self._since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        deadline = time.monotonic() + self.wait_s
        try:
            self._take(deadline)
            while self._alone and (found := self._part()) is not None:
                # They need the dataset's lease to get to their end.
                self._release(self._token)
                part, lives = found
                if lives and time.monotonic() >= deadline:
                    self._refuse(part)
                time.sleep(1.0)
                self._take(deadline)
            self._probe()
            if self._alone:
                self._turn = False
                self._write()
        except OSError as error:
            raise environment_fault(error, self.store, "Taking the lease of the dataset") from error
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def _take(self, deadline: float) -> None:
        """Create the lease, as soon as nobody holds it."""
        while True:
            self._renewed = time.time()
            if self._create():
                return
            record, state = self._holder(self._name)
            if record is None:
                continue
            if state == "dead":
                self._break(self._name, record)
            elif state == "lives" and time.monotonic() >= deadline + (_TURN_S if record.get("turn") else 0.0):
                self._refuse(record)
            else:
                time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - only so that waiters do not come all at once

    @os_errors()
    def _part(self) -> tuple[dict[str, Any], bool] | None:
        """Return the lease of a part that is or may be under way, and whether it surely is; leases of dead ones are removed.

        None begins now, for each first takes the dataset's lease.
        """
        filesystem, folder = sidecar_filesystem(self.store)
        filesystem.invalidate_cache()
        found = None
        for path in filesystem.glob(join(folder, "part-*.json")):
            name = path.rpartition("/")[2]
            record, state = self._holder(name)
            if record is not None and state == "dead":
                self._break(name, record)
                # It is still there if its holder has woken up, or while somebody else removes it.
                record = self._read(name)
            if record is not None and (found is None or state == "lives"):
                found = record, state == "lives"
        return found

    def _probe(self) -> None:
        """Check that the store refuses a second creation: else neither lease nor commits can be trusted."""
        if self._create():
            self._release(self._token)
            raise EnvironmentFault(
                f"The object store behind {self.store.url} ignores conditional writes (If-None-Match).",
                "On such a store concurrent commits are lost silently.",
                "Use a store with conditional writes (Amazon S3, MinIO, Google Cloud Storage) or a local folder.",
            )

    def _refuse(self, record: dict[str, Any]) -> None:
        raise EnvironmentFault(
            f"{self.store.url} is in use: {record.get('purpose', 'a run')} by {record.get('user', '?')} on "
            f"{record.get('host', '?')}, process {record.get('pid', '?')}, since {record.get('since', '?')}.",
            "Two drivers on one dataset would do the work twice and could lose commits.",
            "Wait for it or stop it; a driver that died is replaced "
            f"{LIFETIME_S:.0f} s after its last sign of life (at once on its own machine).",
        )

    def _write(self) -> None:
        """Say that this holder lives; others may see it before this one knows."""
        record = self._record()
        write_atomic(self.store, self._name, json.dumps(record).encode())
        self._renewed = record["renewed_unix_s"]

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                record = self._read()
                if record is None or record.get("token") != self._token:
                    self._lost.set()
                    return
                self._write()
            except OSError:
                continue

    def check(self) -> None:
        """Raise if the lease was lost; called before every commit.

        Raises
        ------
        EnvironmentFault
            If another driver has taken over.
        """
        # Who was stopped for a while is here before the thread that renews, and has to look himself.
        if not self._lost.is_set() and time.time() - self._renewed > SILENT_S / 2:
            with contextlib.suppress(OSError):
                if (self._read() or {}).get("token") != self._token:
                    self._lost.set()
        if self._lost.is_set():
            raise EnvironmentFault(
                f"Another driver has taken over {self.store.url}: this one was silent for over {SILENT_S:.0f} s.",
                "Going on could lose commits; all that was committed is safe.",
                "See 'sdoml status' and repeat the command once the other driver has ended.",
            )

    def __exit__(self, *_: object) -> None:
        """Give the lease back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):
            self._release(self._token)
