"""Ray's head, lost: Ray ends a driver a minute after it lost the head, without a word; here it is told before.

The driver looks whether the head takes connections. Once it has taken none for most of Ray's minute, the main thread is told by
a signal, for Ray waits in C++ and nothing else interrupts it there. What of Ray still hangs then ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from sdoml_dist.errors import EnvironmentFault

_SIGNAL = signal.SIGUSR2
_LOOK_S = 3.0
# Ray ends the driver after 60 s, or what is set for it (gcs_rpc_server_reconnect_timeout_s of ray_config_def.h); a head that
# comes back before, one whose state is in Redis, is not lost.
_RAY_S = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - it is written like this
_LOST_S, _LAST_S = 0.6 * _RAY_S, 0.2 * _RAY_S


class HeadLostError(EnvironmentFault):
    """Ray's head is gone, and with it the cluster."""


@contextlib.contextmanager
def heeding(address: str) -> Iterator[None]:
    """End what is done meanwhile if Ray's head is lost.

    Parameters
    ----------
    address : str
        Of the head, as ``host:port``.

    Raises
    ------
    HeadLostError
        In the main thread, out of whatever it waits for. A process whose Ray still hangs some seconds later ends with
        the exit code of that error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(address)
    before = signal.signal(_SIGNAL, watch.on_signal)
    try:
        yield
    finally:
        with watch.telling:
            watch.closed.set()
        signal.signal(_SIGNAL, before)


class _Watch:
    """A thread that looks whether the head takes connections."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._place = (host.strip("[]"), int(port))
        self.closed, self._lost = threading.Event(), False
        # Held while the signal is sent, so that none comes after its handler has gone.
        self.telling = threading.Lock()
        self._error = HeadLostError(
            f"Ray's head at {address} has taken no connection for {_LOST_S:.0f} s: the cluster is lost.",
            "Everything committed is safe.",
            "Start a cluster and give the same command again: it goes on.",
        )
        threading.Thread(target=self._look, name="head", daemon=True).start()

    def on_signal(self, _number: int, _frame: object) -> None:
        """Raise the error in the main thread; the signal of somebody else says nothing."""
        if self._lost:
            raise self._error

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._place, _LOOK_S).close()
        except OSError:
            return False
        return True

    def _look(self) -> None:
        seen, refused = time.monotonic(), 0
        while not self.closed.wait(_LOOK_S):
            if self._answers():
                seen = time.monotonic()
                refused = 0
            else:
                refused += 1
                # A process that was stopped for a while has seen nothing of the head either.
                if refused > 1 and time.monotonic() - seen > _LOST_S:
                    break
        with self.telling:
            if self.closed.is_set():
                return
            self._lost = True
            os.kill(os.getpid(), _SIGNAL)
        if not self.closed.wait(_LAST_S):
            sys.stderr.write(f"sdoml: {self._error}\n")
            sys.stderr.flush()
            os._exit(int(self._error.exit_code))
