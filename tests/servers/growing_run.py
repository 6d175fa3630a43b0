"""What tests/test_growing.py runs inside its namespaces: builds on a cluster of no workers, and watches it grow and shrink.

Arguments: a folder, how many workers there may be, how many a pool has at most, and three recipes. The first is built by the
command and stopped by a signal once the pool has its maximum; the second is refused; the third is built in this process,
which stays connected to Ray. Prints one line of JSON about each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.servers.growing import start_head

ADDRESS = "127.0.0.1:6379"
_GONE_S = 90.0
_GROWN_S = 200.0
_SETTLED_S = 5.0


class Watcher(threading.Thread):
    """Counts the workers that live, over and over."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        from ray._raylet import GcsClient

        self._client = GcsClient(address=ADDRESS)
        self.most = 0
        self.now = 0
        self._end = threading.Event()

    def count(self) -> int:
        return sum(node.state == 0 and not node.is_head_node for node in self._client.get_all_node_info(timeout=10).values())

    def run(self) -> None:
        while not self._end.wait(0.3):
            self.now = self.count()
            self.most = max(self.most, self.now)

    def until_none(self) -> float | None:
        """Wait until no worker lives; returns how long that took, or None."""
        began = time.monotonic()
        while time.monotonic() - began < _GONE_S:
            if self.count() == 0:
                return time.monotonic() - began
            time.sleep(0.3)
        return None

    def close(self) -> None:
        self._end.set()
        self.join()


def command_line(recipe: str, watcher: Watcher, enough: int) -> tuple[int, str]:
    """Build by the command, stopped once there are enough workers; it is gone when its cluster has to shrink."""
    build = subprocess.Popen(
        [sys.executable, "-m", "sdoml_dist", "build", recipe], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "RAY_ADDRESS": ADDRESS},
    )  # fmt: skip
    try:
        began = time.monotonic()
        while build.poll() is None and watcher.most < enough and time.monotonic() - began < _GROWN_S:
            time.sleep(0.2)
        if build.poll() is None:
            # The actor on the new worker has to start before anything can be said about its end.
            time.sleep(_SETTLED_S)
            build.send_signal(signal.SIGTERM)
        told, _ = build.communicate(timeout=_GONE_S)
    finally:
        build.kill()
    return build.returncode, told


def held(recipe: str) -> tuple[int, str]:
    """Build in this process, which stays connected while its cluster has to shrink."""
    import ray

    from sdoml_dist.cli import main as sdoml

    if not ray.is_initialized():
        ray.init(address=ADDRESS, logging_level="ERROR", log_to_driver=False)
    return sdoml(["build", recipe]), ""


def main() -> None:
    folder, most, enough = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    start_head(folder, most)
    for number, recipe in enumerate(sys.argv[4:]):
        watcher = Watcher()
        before = watcher.count()
        watcher.start()
        began = time.monotonic()
        code, told = held(recipe) if number == 2 else command_line(recipe, watcher, enough)
        took = time.monotonic() - began
        gone = watcher.until_none()
        watcher.close()
        answer = {"code": code, "before": before, "most": watcher.most, "took": took, "gone": gone, "told": told[-3000:]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
