"""Leases of holders on other machines, whose clocks may differ from this one's: the living keep them, the dead are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdoml_dist.errors import EnvironmentFault
from sdoml_dist.recipe_base import Store
from sdoml_dist.store import lease as leases
from sdoml_dist.store.lease import Lease

SILENT_S = 1.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of leases of a dataset, where they are watched for a short time."""
    monkeypatch.setattr(leases, "SILENT_S", SILENT_S)
    folder = tmp_path / "d" / "sdoml"
    folder.mkdir(parents=True)
    return folder


def write(path: Path, ahead_s: float, **more: Any) -> None:
    """Write the lease of a holder elsewhere whose clock is ahead of this one's."""
    record = {"token": "other", "machine": "elsewhere", "purpose": "theirs", "renewed_unix_s": time.time() + ahead_s}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(record | more))
    temporary.replace(path)


@contextlib.contextmanager
def holder(path: Path, ahead_s: float) -> Iterator[None]:
    """Hold a lease elsewhere and renew it."""
    end = threading.Event()

    def renew() -> None:
        while not end.wait(0.2):
            write(path, ahead_s)

    write(path, ahead_s)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def token(path: Path) -> str:
    return str(json.loads(path.read_text())["token"])


@pytest.mark.parametrize("ahead_s", [-3600.0, 0.0, 45.0])
@pytest.mark.parametrize("wait_s", [0.0, 2 * SILENT_S])
def test_a_living_holder_keeps_its_lease_whatever_its_clock_says(place: Path, ahead_s: float, wait_s: float) -> None:
    path, began = place / "lease.json", time.monotonic()
    with holder(path, ahead_s):
        with pytest.raises(EnvironmentFault, match="in use: theirs"), Lease(Store(url=str(place.parent)), "ours", wait_s):
            pass
        assert wait_s <= time.monotonic() - began < wait_s + 10
        assert token(path) == "other"


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_a_dead_holder_is_replaced_once_it_was_seen_to_be_silent(place: Path, ahead_s: float) -> None:
    """Without waiting for another driver, too: the few seconds are those of making sure."""
    path, began = place / "lease.json", time.monotonic()
    write(path, ahead_s)
    with Lease(Store(url=str(place.parent)), "ours"):
        assert SILENT_S < time.monotonic() - began < SILENT_S + 5
        assert token(path) != "other"
    assert list(place.iterdir()) == []


def test_a_stamp_of_now_is_believed_until_the_lease_has_run_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = Store(url=str(place.parent)), place / "lease.json"
    write(path, 0.0)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="in use: theirs"):
        Lease(store, "ours").__enter__()
    assert time.monotonic() - began < SILENT_S
    monkeypatch.setattr(leases, "LIFETIME_S", 2.0)
    write(path, 1.5)
    with Lease(store, "ours", wait_s=20.0):
        assert 2.0 < time.monotonic() - began < 15


def test_a_holder_on_this_machine_is_replaced_at_once(place: Path) -> None:
    began = time.monotonic()
    write(place / "lease.json", 0.0, machine=leases._machine(), pid=os.getpid(), process_start="another")
    with Lease(Store(url=str(place.parent)), "ours"):
        assert time.monotonic() - began < SILENT_S


def test_parts_elsewhere_are_watched_as_well(place: Path) -> None:
    store, living = Store(url=str(place.parent)), place / "part-1-of-9.json"
    for number in range(2, 10):
        write(place / f"part-{number}-of-9.json", -3600.0)
    began = time.monotonic()
    with Lease(store, "ours"):
        # All of them at the same time; and the next driver finds none.
        assert SILENT_S < time.monotonic() - began < 8 * SILENT_S
        assert [path.name for path in place.iterdir()] == ["lease.json"]
    with holder(living, -3600.0), pytest.raises(EnvironmentFault, match="in use: theirs"), Lease(store, "ours"):
        pass
    assert [path.name for path in place.iterdir()] == [living.name]


def test_a_lease_that_was_renewed_at_the_last_moment_is_not_removed(place: Path) -> None:
    path, lease = place / "lease.json", Lease(Store(url=str(place.parent)), "ours")
    lease._since = ""
    write(path, -3600.0)
    record = json.loads(path.read_text())
    write(path, -3599.0)
    lease._break(path.name, record)
    assert [path.name for path in place.iterdir()] == ["lease.json"]
    lease._break(path.name, json.loads(path.read_text()))
    assert list(place.iterdir()) == []


def test_whoever_dies_while_he_removes_a_dead_lease_holds_nobody_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """His tombstone is from elsewhere too, and its stamp says nothing."""
    monkeypatch.setattr(leases, "LIFETIME_S", 2.0)
    write(place / "lease.json", -3600.0)
    write(place / "lease.json.other.dead", 3600.0)
    began = time.monotonic()
    with Lease(Store(url=str(place.parent)), "ours"):
        assert SILENT_S + 2.0 < time.monotonic() - began < 15
    assert list(place.iterdir()) == []


def test_a_holder_that_was_silent_looks_before_it_commits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as long as others watch it is enough."""
    monkeypatch.setattr(leases, "RENEW_S", 1e6)
    with Lease(Store(url=str(place.parent)), "ours") as lease:
        write(place / "lease.json", 0.0)
        time.sleep(SILENT_S / 2 + 0.1)
        with pytest.raises(EnvironmentFault, match="has taken over"):
            lease.check()


def test_a_user_without_a_name_is_told_by_number(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which its passwd does not have."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with Lease(Store(url=str(place.parent)), "ours"):
        assert json.loads((place / "lease.json").read_text())["user"] == str(os.getuid())
