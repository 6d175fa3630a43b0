"""The Icechunk repository of a dataset: open it, choose a version, name versions, and commit what workers wrote."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable
from typing import Any, Literal

import icechunk
import numpy as np
import zarr

from sdoml_dist.errors import EnvironmentFault, StoreError
from sdoml_dist.recipe_base import Store
from sdoml_dist.store.storage import environment_fault, icechunk_storage, local_path

BRANCH = "main"
# Icechunk keeps what it has decoded, by default half a million nodes of snapshots and millions of references. A driver
# writes new ones with every commit and hardly reads an old one again; kept, they were most of what a long run grew by.
_DRIVER_CACHES = icechunk.CachingConfig(
    num_snapshot_nodes=10_000,
    num_chunk_refs=200_000,
    num_transaction_changes=0,
    num_bytes_attributes=0,
    num_bytes_chunks=0,
)


def exists(store: Store) -> bool:
    """Whether there is a dataset.

    Raises
    ------
    EnvironmentFault
        If the storage cannot be reached.
    """
    local = local_path(store.url)
    if local is not None and not (local / "icechunk").is_dir():
        return False
    try:
        return icechunk.Repository.exists(icechunk_storage(store))
    except icechunk.IcechunkError as error:
        raise environment_fault(error, store, "Looking for a dataset") from error


def open_repository(store: Store) -> icechunk.Repository:
    """Open the repository of an existing dataset.

    Raises
    ------
    StoreError
        If there is none.
    """
    if not exists(store):
        raise StoreError(
            f"There is no dataset at {store.url}.", "", "Build one with 'sdoml build RECIPE', or correct the address."
        )
    try:
        return icechunk.Repository.open(icechunk_storage(store))
    except icechunk.IcechunkError as error:
        raise environment_fault(error, store, "Opening the dataset") from error


def read_root(store: Store, version: str | None = None) -> zarr.Group:
    """Open the root group for reading, at a version (tag or snapshot id) or the newest commit.

    Raises
    ------
    StoreError
        If there is no such version.
    """
    repository = open_repository(store)
    return zarr.open_group(session_at(repository, version).store, mode="r")


def session_at(repository: icechunk.Repository, version: str | None) -> icechunk.Session:
    """Return a read-only session at a tag, a branch, a snapshot id or the newest commit.

    Raises
    ------
    StoreError
        If there is no such version.
    """
    if version is None:
        return repository.readonly_session(BRANCH)
    tags = repository.list_tags()
    if version in tags:
        return repository.readonly_session(tag=version)
    if version in repository.list_branches():
        return repository.readonly_session(branch=version)
    try:
        return repository.readonly_session(snapshot_id=version)
    except (icechunk.IcechunkError, ValueError):
        raise StoreError(
            f"The dataset has no version {version!r}.",
            f"Its tags are {', '.join(sorted(tags)) or 'none yet'}.",
            "'sdoml versions URL' lists tags and commits.",
        ) from None


def dated_tag(repository: icechunk.Repository) -> str:
    """Return a free name of a version made today (UTC): the date, with a number from the second on."""
    today = str(np.datetime64("now", "D"))
    names = itertools.chain([today], (f"{today}.{number}" for number in itertools.count(2)))
    taken = repository.list_tags()
    return next(name for name in names if name not in taken)


def create_tag(repository: icechunk.Repository, name: str, snapshot: str) -> str:
    """Give a snapshot a name.

    Raises
    ------
    StoreError
        If the name is taken: versions never change.
    """
    if name in repository.list_tags():
        raise StoreError(
            f"The dataset has a version {name!r} already.", "Versions never change.", "Choose another name."
        )
    repository.create_tag(name, snapshot)
    return snapshot


class Ledger:
    """A repository opened for writing by the dataset's one driver.

    Parameters
    ----------
    store : Store
        The dataset; its repository is made if there is none.
    branch : str
        Which line of commits to go on with.

    Attributes
    ----------
    commits : int
        Commits made so far.

    Raises
    ------
    EnvironmentFault
        If the storage refuses.
    """

    def __init__(self, store: Store, branch: str = BRANCH) -> None:
        self.store, self.branch = store, branch
        self.commits = 0
        settings = icechunk.RepositoryConfig(caching=_DRIVER_CACHES)
        try:
            if exists(store):
                self.repository = icechunk.Repository.open(icechunk_storage(store), config=settings)
            else:
                local = local_path(store.url)
                if local is not None:
                    (local / "icechunk").mkdir(parents=True, exist_ok=True)
                self.repository = icechunk.Repository.create(icechunk_storage(store), config=settings)
            self._session = self.repository.writable_session(branch)
        except (icechunk.IcechunkError, OSError) as error:
            raise environment_fault(error, store, "Opening the dataset for writing") from error

    def fork(self) -> bytes:
        """Return a pickled fork of the session, through which workers write."""
        return pickle.dumps(self._session.fork())

    def group(self, path: str = "", mode: Literal["r", "r+", "a"] = "r") -> zarr.Group:
        """Open a group as it is with everything not committed yet."""
        return zarr.open_group(self._session.store, path=path, mode=mode)

    @property
    def changed(self) -> bool:
        """Whether something is not committed yet."""
        return bool(self._session.has_uncommitted_changes)

    @property
    def snapshot(self) -> str:
        """The commit that the session goes on from."""
        return str(self._session.snapshot_id)

    def renew(self) -> None:
        """Go on from the newest commit, whoever made it; what is not committed yet is given up.

        Raises
        ------
        EnvironmentFault
            If the storage refuses.
        """
        try:
            self._session = self.repository.writable_session(self.branch)
        except (icechunk.IcechunkError, OSError) as error:
            raise environment_fault(error, self.store, "Opening the dataset for writing") from error

    def commit(self, message: str, metadata: dict[str, Any] | None = None) -> None:
        """Make what was written through the driver's session visible at once."""
        try:
            self._session.commit(message, metadata or {})
            self.commits += 1
            self._session = self.repository.writable_session(self.branch)
        # A conflict is no IcechunkError.
        except (icechunk.IcechunkError, icechunk.ConflictError, OSError) as error:
            raise self._fault(error) from error

    def merge(self, forks: Iterable[bytes], write: Callable[[], None], message: str, metadata: dict[str, Any]) -> None:
        """Commit what workers wrote together with what the driver writes about it.

        Parameters
        ----------
        forks : iterable of bytes
            Pickled forks, as the workers handed them back.
        write : callable
            Writes through :meth:`group`.
        message : str
            Of the commit.
        metadata : dict
            Of the commit.

        Raises
        ------
        EnvironmentFault
            If the storage refuses, or another driver has committed meanwhile.
        """
        try:
            self._session.merge(*(pickle.loads(fork) for fork in forks))  # noqa: S301 - our own workers
            write()
        except (icechunk.IcechunkError, OSError) as error:
            raise self._fault(error) from error
        self.commit(message, metadata)

    def _fault(self, error: Exception) -> EnvironmentFault:
        if isinstance(error, icechunk.ConflictError):
            return EnvironmentFault(
                f"Another driver has committed to {self.store.url} during this run.",
                "This run's last units were not committed; everything before is safe.",
                "See 'sdoml status' and repeat the command once the other driver has ended.",
            )
        return environment_fault(error, self.store, "Committing")

    def tag(self, name: str) -> str:
        """Give the newest commit a name and return its snapshot id.

        Raises
        ------
        StoreError
            If the name is taken: versions never change.
        """
        return create_tag(self.repository, name, self.repository.lookup_branch(self.branch))
