"""What comes back from a Ray Data actor pool, value by value, without threads that outlive it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import ray
import ray.data


def results(pool: ray.data.Dataset, column: str) -> Iterator[Any]:
    """Run a pool and yield the pickled values of one column in the order in which they come back.

    ``Dataset.iter_batches`` reads ahead in threads of its own. They go on for a while after the reader has stopped, and a
    thread that asks for an object while Ray shuts down ends the whole process. Here the blocks are got in the thread of the
    reader, and leaving the loop stops the pool.

    Parameters
    ----------
    pool : ray.data.Dataset
        Rows with bytes in `column`, made by our own workers.
    column : str
        Name of the column.
    """
    # As Dataset.iter_internal_ref_bundles, which does not give the executor away (Ray is pinned to one version).
    bundles, _, executor = pool._execute_to_iterator()
    try:
        for bundle in bundles:
            for entry in bundle.blocks:
                block = ray.data.block.BlockAccessor.for_block(ray.get(entry.ref)).to_arrow()
                for value in block[column].to_pylist():
                    yield pickle.loads(value)  # noqa: S301 - made by our own workers
    finally:
        if executor is not None:
            executor.shutdown(force=True)
