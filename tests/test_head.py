"""A head that takes no connections ends the driver, by an error where it can, and else by its exit code."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

from sdoml_dist.engine import head
from sdoml_dist.engine.head import HeadLostError, heeding
from sdoml_dist.errors import ExitCode

HANGING = """
import signal, sys, threading, time
from sdoml_dist.engine import head
head._LOOK_S, head._LOST_S, head._LAST_S = 0.05, 0.2, 0.3
with head.heeding("127.0.0.1:1"):
    # As where Ray has the interpreter call nothing: the signal is not heard.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    time.sleep(30)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_LOOK_S": 0.05, "_LOST_S": 0.3, "_LAST_S": 5.0}.items():
        monkeypatch.setattr(head, name, value)


def _wait(server: socket.socket, port: int) -> None:
    with heeding(f"127.0.0.1:{port}"):
        time.sleep(0.6)
        server.close()
        time.sleep(20)


def test_a_lost_head_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        began = time.monotonic()
        before = signal.getsignal(signal.SIGUSR2)
        with pytest.raises(HeadLostError, match=f"head at 127.0.0.1:{port} has taken no connection"):
            _wait(server, port)
        assert 0.6 < time.monotonic() - began < 10
        assert signal.getsignal(signal.SIGUSR2) == before


def test_what_hangs_all_the_same_is_ended() -> None:
    run = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == ExitCode.ENVIRONMENT
    assert "the cluster is lost" in run.stderr
