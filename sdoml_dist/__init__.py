"""Machine-learning data and models from NASA's Solar Dynamics Observatory, distributed on Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sdoml_dist.store.emergence_reader import open_emergence
    from sdoml_dist.store.maps import to_map
    from sdoml_dist.store.reader import accounting, frames, header, open_dataset
    from sdoml_dist.store.splits import block_split, month_split, statistics

# Resolved on first use, so that importing the package (and every --help) stays fast.
_LAZY = {
    "open_dataset": "sdoml_dist.store.reader",
    "frames": "sdoml_dist.store.reader",
    "accounting": "sdoml_dist.store.reader",
    "header": "sdoml_dist.store.reader",
    "open_emergence": "sdoml_dist.store.emergence_reader",
    "to_map": "sdoml_dist.store.maps",
    "block_split": "sdoml_dist.store.splits",
    "month_split": "sdoml_dist.store.splits",
    "statistics": "sdoml_dist.store.splits",
}

__all__ = [
    "accounting", "block_split", "frames", "header", "month_split", "open_dataset", "open_emergence", "statistics", "to_map",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
