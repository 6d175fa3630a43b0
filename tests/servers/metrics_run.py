"""What tests/test_metrics.py runs inside its namespaces: a build on a real head that wants a token, and its metrics' port.

Arguments: a recipe and how many frames it has. Prints what the port shows once all frames are counted, or after a while.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import sys
import time
from urllib.request import urlopen

PORT = 8080
_PATIENCE_S = 60.0


def frames_told(text: str) -> float:
    return sum(float(value) for value in re.findall(r"^ray_sdoml_frames_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE))


def main() -> None:
    recipe, frames = sys.argv[1], float(sys.argv[2])
    # Those who start this may have switched metrics off, as for a private Ray.
    os.environ |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": "127.0.0.1:6379",
        "RAY_metrics_report_interval_ms": "500", "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "1",
    }  # fmt: skip
    command = [
        "ray", "start", "--head", "--num-cpus=2", "--object-store-memory=80000000", "--include-dashboard=false",
        "--node-ip-address=127.0.0.1", f"--metrics-export-port={PORT}",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=120)
    stranger = {**os.environ, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    build = [sys.executable, "-m", "sdoml_dist", "build", recipe]
    refused = subprocess.run(build, env=stranger, capture_output=True, text=True, timeout=100)
    print(f"STRANGER {refused.returncode}", flush=True)

    import ray

    from sdoml_dist.cli import main as sdoml

    ray.init(address=os.environ["RAY_ADDRESS"], logging_level="ERROR", log_to_driver=False)
    print(f"BUILD {sdoml(['build', recipe])}", flush=True)
    text, began = "", time.monotonic()
    while frames_told(text) < frames and time.monotonic() - began < _PATIENCE_S:
        time.sleep(0.5)
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    print("METRICS\n" + "\n".join(line for line in text.splitlines() if "sdoml" in line), flush=True)


if __name__ == "__main__":
    main()
