"""A cluster that grows and shrinks by Ray's own autoscaler, on one machine.

Ray has a provider of made-up nodes: each is a raylet of its own, started and ended by the autoscaler as a cloud's machine
would be. The head takes no work. To be used inside namespaces of its own (:func:`tests.servers.alone.run_alone`).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.cluster_utils import FAKE_HEAD_NODE_ID

NODE_TYPE = "ray.worker.cpu"


class Provider(FakeMultiNodeProvider):
    """Made-up nodes; what they have of memory is the machine's, as Ray finds it, and not a resource of their own."""

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: dict[str, float], labels: Any
    ) -> None:
        without = {name: value for name, value in resources.items() if name != "memory"}
        super()._create_node_with_resources_and_labels(node_config, tags, count, without, labels)


def start_head(folder: Path, most_workers: int, *options: str, idle_s: float = 6.0) -> None:
    """Start a head without work whose autoscaler may start so many workers of one CPU; they go when idle."""
    node = {"CPU": 1, "memory": 2_000_000_000, "object_store_memory": 80_000_000}
    config = {
        "cluster_name": "growing", "max_workers": most_workers, "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60, "docker": {}, "auth": {"ssh_user": "nobody"},
        "provider": {
            "type": "external", "module": f"{Provider.__module__}.{Provider.__name__}", "disable_node_updaters": True,
            "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            NODE_TYPE: {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": most_workers},
        },
        "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
        "rsync_filter": [], "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
        "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(config))
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = [
        "ray", "start", "--head", "--num-cpus=0", "--object-store-memory=80000000", "--include-dashboard=false",
        "--node-ip-address=127.0.0.1", f"--autoscaling-config={path}", *options,
    ]  # fmt: skip
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=120)
