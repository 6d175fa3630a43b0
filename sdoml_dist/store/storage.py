"""Where the parts of a dataset lie: the Icechunk repository, and small side files next to it.

A dataset at ``URL`` holds ``URL/icechunk`` (the data and its history) and ``URL/sdoml`` (lease, run records, index of
the source, calibration tables). Only the repository is needed to read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import fsspec
import icechunk

from sdoml_dist.atomic import put
from sdoml_dist.errors import EnvironmentFault, StoreError
from sdoml_dist.recipe_base import Store

icechunk.set_logs_filter("error")

_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google"}


def join(url: str, *parts: str) -> str:
    """Join parts to a path or URL."""
    return "/".join([url.rstrip("/"), *parts])


def local_path(url: str) -> Path | None:
    """Return the local path of a URL, or None for an object store.

    Raises
    ------
    StoreError
        If the scheme is none of file, s3 and gs.
    """
    scheme = urlparse(url).scheme
    if scheme == "file":
        return Path(urlparse(url).path)
    if "://" not in url:
        return Path(url).expanduser().absolute()
    if scheme in ("s3", "gs"):
        return None
    raise StoreError(
        f"A dataset cannot be at {url!r}.",
        "Datasets live in a local folder, s3://bucket/prefix or gs://bucket/prefix.",
        "Correct store.url.",
    )


def endpoint(store: Store) -> str | None:
    """Return the address of the S3-compatible server, or None for Amazon's."""
    return store.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def icechunk_storage(store: Store) -> icechunk.Storage:
    """Return the Icechunk storage of a dataset; credentials come from the environment."""
    local = local_path(store.url)
    if local is not None:
        return icechunk.local_filesystem_storage(str(local / "icechunk"))
    parsed = urlparse(store.url)
    prefix = join(parsed.path.strip("/"), "icechunk").lstrip("/")
    if parsed.scheme == "gs":
        return icechunk.gcs_storage(
            bucket=parsed.netloc, prefix=prefix, anonymous=store.anonymous or None, from_env=not store.anonymous or None
        )
    address = endpoint(store)
    return icechunk.s3_storage(
        bucket=parsed.netloc,
        prefix=prefix,
        region=store.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        endpoint_url=address,
        allow_http=bool(address and address.startswith("http://")),
        force_path_style=address is not None,
        anonymous=store.anonymous or None,
        from_env=not store.anonymous or None,
    )


def sidecar_url(store: Store) -> str:
    """Return the URL of the side files."""
    local = local_path(store.url)
    return join(str(local) if local is not None else store.url, "sdoml")


def sidecar_options(store: Store) -> dict[str, object]:
    """Return the fsspec options for the side files."""
    if local_path(store.url) is not None:
        return {}
    if store.url.startswith("gs://"):
        return {"token": "anon"} if store.anonymous else {}
    options: dict[str, object] = {"anon": store.anonymous, "use_listings_cache": False}
    if (address := endpoint(store)) is not None:
        options["endpoint_url"] = address
    if store.region:
        options["client_kwargs"] = {"region_name": store.region}
    return options


def sidecar_filesystem(store: Store) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system and the path of the side files."""
    filesystem, path = fsspec.core.url_to_fs(sidecar_url(store), **sidecar_options(store))
    return filesystem, path


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Raise what the clients of object stores raise about connections as OSError, as everything else does.

    Raises
    ------
    OSError
        Whatever of the two it was.
    """
    try:
        yield
    except Exception as error:
        # These packages are loaded with the file systems that need them.
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] in _CLIENTS:
            raise OSError(f"{type(error).__name__}: {error}") from error
        raise


def write_atomic(store: Store, name: str, data: bytes) -> None:
    """Write a side file so that readers see the old or the new one, never a half.

    Raises
    ------
    OSError
        If the storage refuses or does not answer.
    """
    with os_errors():
        filesystem, folder = sidecar_filesystem(store)
        put(filesystem, join(folder, name), data)


def environment_fault(error: Exception, store: Store, doing: str) -> EnvironmentFault:
    """Describe an error of the storage as a fault of the environment."""
    text = " ".join(str(error).split())
    lowered = text.lower()
    hint = "Check that the place exists, that you may write there and that it has room; then repeat the command."
    if "no space" in lowered or "enospc" in lowered or "quota" in lowered:
        hint = "Free some space; then repeat the same command: it resumes where it stopped."
    elif any(word in lowered for word in ("accessdenied", "forbidden", "credential", "invalidaccesskey", "signature")):
        hint = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the rights of the bucket."
    elif "nosuchbucket" in lowered:
        hint = "Create the bucket first."
    return EnvironmentFault(f"{doing} at {store.url} failed: {type(error).__name__}: {text[:400]}", "", hint)
