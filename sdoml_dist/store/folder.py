"""A folder, or a bucket, that plain files are written to."""

from __future__ import annotations

import fsspec

from sdoml_dist.atomic import put
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.storage import join, local_path, sidecar_options


class Folder:
    """Where files lie.

    Parameters
    ----------
    store : Store
        Its address; ``s3://`` and ``gs://`` take credentials from the environment.
    """

    def __init__(self, store: Store) -> None:
        local = local_path(store.url)
        self.store = store
        self.url = str(local) if local is not None else store.url.rstrip("/")
        self.filesystem, root = fsspec.core.url_to_fs(self.url, **sidecar_options(store))
        self.root: str = root.rstrip("/")

    def put(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        put(self.filesystem, join(self.root, path), data)
