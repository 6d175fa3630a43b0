"""What tests/test_growing.py runs inside its namespaces: builds on a cluster of no workers, and watches it grow and shrink.

Prints one line of JSON about each build.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.servers.growing import start_head

ADDRESS = "127.0.0.1:6379"
_GONE_S = 90.0


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


def command_line(recipe: str) -> tuple[int, str]:
    """Build by the command, which is gone when its cluster has to shrink."""
    done = subprocess.run(
        [sys.executable, "-m", "sdoml_dist", "build", recipe], capture_output=True, text=True, timeout=200,
        env={**os.environ, "RAY_ADDRESS": ADDRESS},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def held(recipe: str) -> tuple[int, str]:
    """Build in this process, which stays connected while its cluster has to shrink."""
    import ray

    from sdoml_dist.cli import main as sdoml

    if not ray.is_initialized():
        ray.init(address=ADDRESS, logging_level="ERROR", log_to_driver=False)
    return sdoml(["build", recipe]), ""


def main() -> None:
    folder, most = Path(sys.argv[1]), int(sys.argv[2])
    start_head(folder, most)
    for number, recipe in enumerate(sys.argv[3:]):
        watcher = Watcher()
        before = watcher.count()
        watcher.start()
        began = time.monotonic()
        # The last build is done in this process, and the others by the command.
        code, told = held(recipe) if number == len(sys.argv) - 4 else command_line(recipe)
        took = time.monotonic() - began
        gone = watcher.until_none()
        watcher.close()
        answer = {"code": code, "before": before, "most": watcher.most, "took": took, "gone": gone, "told": told[-3000:]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
