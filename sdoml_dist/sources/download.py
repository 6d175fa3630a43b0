"""Get bytes from anywhere, surviving servers that fail, drop connections or send half a file."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
import requests
import urllib3

from sdoml_dist.recipe_sources import Network
from sdoml_dist.solar.status import FrameError, FrameStatus

_BLOCK = 1 << 18
# A hundred times a level-1 frame; a server that sends more has gone astray.
_MOST_BYTES = 2**31
_ABSENT = (404, 410)
_TRANSIENT = (408, 425, 429)
_LONGEST_RETRY_AFTER_S = 600.0


@dataclass(frozen=True)
class _Part:
    """The beginning of a file, and the name that the server gave to this state of it (a strong ETag, else its date)."""

    data: bytes = b""
    validator: str | None = None


_NOTHING = _Part()


class _Transient(Exception):
    """Worth another attempt; carries how long the server asked to wait, and what has arrived."""

    def __init__(self, text: str, wait_s: float | None = None, kept: _Part = _NOTHING) -> None:
        super().__init__(text)
        self.wait_s, self.kept = wait_s, kept


def public_url(url: str) -> str:
    """Return a URL without user, password and query, fit for messages and logs."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def pauses(network: Network, generator: random.Random | None = None) -> Callable[[int], float]:
    """Return a function from the number of failed attempts to a pause: exponential with full jitter."""
    draw = (generator or random.Random()).uniform  # noqa: S311 - spreads requests, protects nothing

    def pause(failures: int) -> float:
        return draw(0, min(network.backoff_s * 2.0 ** (failures - 1), network.backoff_maximum_s))

    return pause


def attempts(network: Network) -> Iterator[int]:
    """Yield the number of each attempt, from 1 to the last one allowed, with a pause before each but the first."""
    pause = pauses(network)
    for number in range(1, network.retries + 2):
        if number > 1:
            time.sleep(pause(number - 1))
        yield number


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After")
    if not text:
        return None
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return min(max(wait, 0.0), _LONGEST_RETRY_AFTER_S)


def _validator(response: requests.Response) -> str | None:
    """Return what identifies this state of a file in If-Range (RFC 9110, 13.1.5): weak ETags do not."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _continues(response: requests.Response, kept: _Part) -> bool:
    """Whether a partial answer goes on exactly where `kept` ends."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and match is not None and int(match[1]) == len(kept.data)


def _http(url: str, network: Network, kept: _Part) -> bytes:
    """Read a URL once, going on after `kept` if the server still has that file; raises _Transient with what arrived."""
    headers = {"Accept-Encoding": "identity"}
    if kept.data and kept.validator:
        headers |= {"Range": f"bytes={len(kept.data)}-", "If-Range": kept.validator}
    received = bytearray()
    validator = None
    deadline = time.monotonic() + network.total_timeout_s
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(network.connect_timeout_s, network.read_timeout_s)
        ) as response:
            code = response.status_code
            if code in _ABSENT:
                raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"{public_url(url)}: HTTP {code}")
            if code == 416:
                raise _Transient("HTTP 416: the file has changed")
            if code in _TRANSIENT or code >= 500:
                raise _Transient(f"HTTP {code}", _retry_after(response), kept)
            if code >= 400:
                raise FrameError(FrameStatus.FAILED_DOWNLOAD, f"{public_url(url)}: HTTP {code}")
            validator = _validator(response)
            if code == 206:
                if not _continues(response, kept):
                    raise _Transient("the server answered with another part of the file than was asked for")
                received += kept.data
            announced = None if response.headers.get("Content-Encoding") else response.headers.get("Content-Length")
            total = None if announced is None else len(received) + int(announced)
            # read1 returns what has come, so that a trickle meets the deadline.
            while block := response.raw.read1(_BLOCK, decode_content=True):
                received += block
                if len(received) > _MOST_BYTES:
                    detail = f"{public_url(url)}: more than {_MOST_BYTES} bytes"
                    raise FrameError(FrameStatus.FAILED_DOWNLOAD, detail)
                if time.monotonic() > deadline:
                    text = f"{len(received)} bytes in {network.total_timeout_s:g} s"
                    raise _Transient(text, None, _Part(bytes(received), validator))
            if total is not None and len(received) != total:
                text = f"the connection ended after {len(received)} of {total} bytes"
                raise _Transient(text, None, _Part(bytes(received), validator))
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        arrived = _Part(bytes(received), validator) if received else kept
        raise _Transient(type(error).__name__, None, arrived) from None
    except requests.RequestException as error:
        raise FrameError(FrameStatus.FAILED_DOWNLOAD, f"{public_url(url)}: {type(error).__name__}") from None
    return bytes(received)


def _filesystem(url: str, options: dict[str, Any]) -> bytes:
    """Read a path or object once by fsspec."""
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    try:
        data: bytes = filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError):
        raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"{public_url(url)} is not there") from None
    except PermissionError as error:
        raise FrameError(FrameStatus.FAILED_DOWNLOAD, f"{public_url(url)}: {error}") from None
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise _Transient(f"{type(error).__name__}: {error}") from None
    return data


def check(data: bytes, size: int | None, checksum: str | None) -> str | None:
    """Compare bytes with announced size and checksum (``"sha256:..."`` or ``"md5:..."``); None means that they agree."""
    if size is not None and len(data) != size:
        return f"{len(data)} bytes, announced {size}"
    if checksum is not None:
        name, _, wanted = checksum.partition(":")
        found = hashlib.new(name, data, usedforsecurity=False).hexdigest()
        if found != wanted:
            return f"{name} {found}, announced {wanted}"
    return None


def fetch_bytes(
    url: str, network: Network, *, size: int | None = None, checksum: str | None = None,
    storage_options: dict[str, Any] | None = None, sleep: Callable[[float], None] = time.sleep,
) -> bytes:  # fmt: skip
    """Return the bytes behind a path or URL.

    Parameters
    ----------
    url : str
        Local path, or a URL that requests (http, https) or fsspec (others) can read.
    network : Network
        Retries, pauses and timeouts.
    size, checksum
        What the source announced.
    storage_options : dict, optional
        For fsspec.
    sleep : callable
        Waits between attempts.

    Raises
    ------
    FrameError
        MISSING_AT_SOURCE, FAILED_DOWNLOAD after the last attempt, or FAILED_CHECKSUM if what arrives stays wrong.
    """
    pause = pauses(network)
    kept, reason, status = _NOTHING, "", FrameStatus.FAILED_DOWNLOAD
    remote = url.startswith(("http://", "https://"))
    for failures in range(1, network.retries + 2):
        try:
            data = _http(url, network, kept) if remote else _filesystem(url, storage_options or {})
        except _Transient as error:
            kept, reason, status = error.kept, str(error), FrameStatus.FAILED_DOWNLOAD
            wait = error.wait_s
        else:
            wrong = check(data, size, checksum)
            if wrong is None:
                return data
            kept, reason, status, wait = _NOTHING, wrong, FrameStatus.FAILED_CHECKSUM, None
            if not remote and "://" not in url:
                break
        if failures <= network.retries:
            sleep(pause(failures) if wait is None else wait)
    raise FrameError(status, f"{public_url(url)}: {reason} ({failures} attempts)")
