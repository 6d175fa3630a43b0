"""A command in a world of its own: private network (only loopback), processes, host name and mounts.

What listens in there is seen by nobody else, and all that it started ends with it. Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.servers.hosts import why_not

_INSIDE = (
    'ip link set lo up; hostname localhost; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; exec "$@"'
)  # fmt: skip


def run_alone(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None, timeout: float = 280
) -> tuple[int, str]:
    """Run a command in namespaces of its own to its end, or skip the test where these are refused.

    Returns
    -------
    tuple of int and str
        Exit code and all output. After `timeout` seconds the command is ended, with everything it started.
    """
    if (reason := why_not()) is not None:
        pytest.skip(f"no namespaces can be made here: {reason}")
    space = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--mount"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*space, "sh", "-c", _INSIDE, "sh", *command], stdout=out, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env={**os.environ, "PATH": path, **(environment or {})},
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            process.kill()
            process.wait(10)
    return code, log.read_text()
