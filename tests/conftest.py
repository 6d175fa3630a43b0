"""Fixtures that all tests share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
# Ray makes its workers nicer than everything else by 15; on a busy machine those of tests would starve.
os.environ.setdefault("RAY_worker_niceness", "0")
# Credentials of the S3 server that tests start on loopback; Ray's workers inherit them.
os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
os.environ.pop("AWS_ENDPOINT_URL", None)
ROOT = Path(__file__).resolve().parent.parent

from sdoml_dist.recipe import Recipe  # noqa: E402
from sdoml_dist.recipe_file import parse_recipe  # noqa: E402


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real observations, or skip."""
    folder = Path(os.environ.get("SDOML_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real observations at {folder} (set SDOML_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """Start one private Ray for all tests of this process."""
    from sdoml_dist.engine.cluster import connect

    with connect(2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start a real S3 server (moto) on loopback and return its address; it has a bucket ``sdoml``."""
    port = 5600 + os.getpid() % 300
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                with urlopen(address, timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        import boto3

        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="sdoml")
        client.close()
        yield address
    finally:
        server.terminate()
        server.wait(10)


def small(store: str, /, **changes: Any) -> dict[str, Any]:
    """Return a small simulated recipe: 2 channels, 2 hours of 6 minutes, 128-pixel frames, shards of 4 slots."""
    data: dict[str, Any] = {
        "name": "small",
        "period": {"start": "2011-02-15T00:00", "end": "2011-02-15T02:00"},
        "cadence": "6min",
        "tolerance": "1min",
        "channels": ["171A", "304A"],
        "grid": {"pixels": 64},
        "source": {
            "kind": "simulator",
            "simulation": {"pixels": 128, "flagged_rate": 0.1, "missing_rate": 0.1, "corrupt_rate": 0.05},
        },
        "store": {"url": store},
        "chunking": {"shard_slots": 4},
        "resources": {"commit_every_units": 2},
    }
    return data | changes


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """Return a maker of small recipes; the dataset is below the test's folder unless `store` says otherwise."""

    def make(store: str | None = None, **changes: Any) -> Recipe:
        return parse_recipe(small(store or str(tmp_path / "dataset"), **changes))

    return make
