"""AIA level 1 and HMI from JSOC: records by DRMS queries, files by exports that survive being interrupted.

JSOC's limits shape this: few requests at once, one query per day and channel, one export per run of evenly spaced
frames (queries with many ranges are refused), and every answer is kept, so that nothing is asked twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urljoin

import drms
import fsspec
import numpy as np
import pandas as pd
from drms.config import ServerConfig

from sdoml_dist.atomic import put
from sdoml_dist.errors import EnvironmentFault, UsageError
from sdoml_dist.paths import inside
from sdoml_dist.recipe_sources import JsocConfig
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import parse_fits_time, utc_to_tai
from sdoml_dist.sources.base import FrameRecord
from sdoml_dist.sources.download import attempts, fetch_bytes

logger = logging.getLogger("sdoml")

_PARTS = re.compile(r"([^\[]+)\[([^\]]+)\](.*)")
"""Series, T_REC, and the rest of a record's name: further prime keys and segments."""
_KEYS = ["T_REC", "T_OBS", "QUALITY", "DATE", "*recnum*"]
_DAY = np.timedelta64(86400, "s")
_MOST_FRAMES_PER_EXPORT = 500
_REGISTER = "Register it at http://jsoc.stanford.edu/ajax/register_email.html and set JSOC_EMAIL or source.email."
_SETTLED_DAYS = 90
"""After so many days a day's records are taken as final; JSOC reprocesses AIA level 1 some days after the observation."""
_FRESH_S = 3600.0
"""How long an answer about a day that may still change is used."""
_EXPIRED = 6
"""Status of an export request that JSOC does not know (any more)."""


def server(url: str) -> ServerConfig:
    """Return the DRMS configuration of a server that answers like JSOC."""
    base = url.rstrip("/") + "/"
    return ServerConfig(
        name="jsoc",
        cgi_baseurl=urljoin(base, "cgi-bin/ajax/"),
        cgi_show_series="show_series",
        cgi_jsoc_info="jsoc_info",
        cgi_jsoc_fetch="jsoc_fetch",
        cgi_check_address="checkAddress.sh",
        http_download_baseurl=base,
    )


def _tai(time_utc: np.datetime64) -> str:
    """Write a UTC time as JSOC reads it: in TAI."""
    text = str(utc_to_tai(time_utc.astype("datetime64[ns]")).astype("datetime64[s]"))
    return text.replace("-", ".").replace("T", "_") + "_TAI"


class JsocSource:
    """Frames of JSOC.

    Parameters
    ----------
    config : JsocConfig
        Address, email, limits.
    product : Product
        What is wanted.
    cache_url : str
        Folder for answers, states of exports, and files.
    options : dict
        Options of fsspec for that folder.
    """

    sees_changes = True

    def __init__(
        self, config: JsocConfig, product: Product, cache_url: str, options: dict[str, object] | None = None
    ) -> None:
        self.config, self.product = config, product
        self.cache_url, self._options = cache_url.rstrip("/"), dict(options or {})

    def _file(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            # Names hold what the server says of its records.
            return fsspec.core.url_to_fs(f"{self.cache_url}/{inside(name)}", **self._options)
        except ValueError as error:
            raise FrameError(FrameStatus.FAILED_DOWNLOAD, f"JSOC names a record oddly: {error}") from None

    def _load(self, name: str) -> bytes | None:
        filesystem, path = self._file(name)
        try:
            data: bytes = filesystem.cat_file(path)
        except FileNotFoundError:
            return None
        return data

    def _save(self, name: str, data: bytes) -> None:
        filesystem, path = self._file(name)
        put(filesystem, path, data)

    def _series(self, channel: str) -> str:
        return self.config.series.get(channel, self.product.bundle(channel).series)

    def _selector(self, channel: str) -> str:
        """Return the second prime key of AIA's series as JSOC writes it; HMI's have none."""
        wavelength = self.product.bundle(channel).wavelength
        return "" if wavelength is None else f"[{wavelength}]"

    def _ask(self, what: str, question: Callable[[drms.Client], Any], email: str | None = None) -> Any:
        """Ask JSOC, again after a pause where it does not answer.

        Raises
        ------
        EnvironmentFault
            If it does not answer after all retries.
        """
        for failures in attempts(self.config.network):  # noqa: B007 - told after the last one
            try:
                return question(drms.Client(server(self.config.url), email=email))
            except drms.DrmsQueryError as error:
                raise EnvironmentFault(
                    f"JSOC refuses {what}: {error}", "", "Check source.series and the channel."
                ) from None
            except (OSError, ValueError, drms.DrmsError) as error:
                if "Email" in str(error):
                    raise UsageError(f"JSOC does not know the address {email}.", "", _REGISTER) from None
                problem = error
        raise EnvironmentFault(
            f"JSOC at {self.config.url} did not answer {what} in {failures} attempts: "
            f"{type(problem).__name__}: {problem}",
            "",
            "Try again later; everything that was answered is kept.",
        )

    def _email(self) -> str | None:
        return os.environ.get("JSOC_EMAIL") or self.config.email

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Ask once for one day, so that a wrong address or series shows before workers start.

        Raises
        ------
        EnvironmentFault
            If JSOC does not answer.
        """
        for bundle in bundles:
            self._day(bundle, start.astype("datetime64[D]"))

    def _day(self, channel: str, day: np.datetime64) -> pd.DataFrame:
        """Return the records of one UTC day: asked for once if the day is long past, else once an hour."""
        name = f"records/{self._series(channel)}/{channel}/{day}.parquet"
        if (data := self._load(name)) is not None:
            table = pd.read_parquet(io.BytesIO(data))
            settled = (day + _SETTLED_DAYS).astype("datetime64[s]").astype(float)
            asked = float(table.attrs.get("asked_unix_s", 0.0))
            if asked > settled or time.time() - asked < _FRESH_S:
                return table
        first = day.astype("datetime64[ns]")
        length = int((utc_to_tai(first + _DAY) - utc_to_tai(first)) / np.timedelta64(1, "s"))
        query = f"{self._series(channel)}[{_tai(first)}/{length}s]{self._selector(channel)}"
        answer = self._ask(query, lambda client: client.query(query, key=_KEYS, convert_numeric=False))
        rows = []
        for row in answer.to_dict("records"):
            try:
                moment = parse_fits_time(row["T_OBS"])
            except ValueError:
                continue  # JSOC writes MISSING for records without an image
            rows.append(
                {
                    "time": moment,
                    "record": row["T_REC"],
                    "quality": int(str(row["QUALITY"]), 0),
                    "version": f"{row['DATE']}#{row['*recnum*']}",
                }
            )
        table = pd.DataFrame(rows, columns=["time", "record", "quality", "version"])
        table.attrs["asked_unix_s"] = time.time()
        buffer = io.BytesIO()
        table.to_parquet(buffer)
        self._save(name, buffer.getvalue())
        return table

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the records of a bundle with ``start <= T_OBS < end``.

        Raises
        ------
        FrameError
            FAILED_DOWNLOAD if JSOC does not answer.
        """
        records = []
        segments = self.product.bundle(bundle).segments
        # T_OBS can lie some seconds outside the day that T_REC belongs to.
        margin = np.timedelta64(60, "s")
        days = np.arange((start - margin).astype("datetime64[D]"), (end + margin).astype("datetime64[D]") + 1)
        for day in days:
            try:
                table = self._day(bundle, day)
            except EnvironmentFault as error:
                raise FrameError(FrameStatus.FAILED_DOWNLOAD, error.what) from None
            for row in table.itertuples(index=False):
                moment = np.datetime64(row.time, "ns")
                if start <= moment < end:
                    locator = f"{self._series(bundle)}[{row.record}]{self._selector(bundle)}"
                    files = tuple(
                        (name, FrameRecord(bundle, moment, f"{locator}{{{name}}}", version=str(row.version)))
                        for name in segments
                    )
                    records.append(
                        FrameRecord(
                            bundle,
                            moment,
                            f"{locator}{{{','.join(segments)}}}",
                            quality=int(row.quality),
                            version=str(row.version),
                            segments=files,
                        )  # fmt: skip
                    )
        return sorted(records, key=lambda record: record.key)

    def _has(self, record: FrameRecord) -> bool:
        filesystem, path = self._file(self._cached(record))
        return bool(filesystem.exists(path))

    def _cached(self, record: FrameRecord) -> str:
        """Return the name of a file in the cache."""
        series, moment = record.locator.split("[")[:2]
        safe = moment.split("]")[0].replace(":", "").replace(".", "")
        segment = record.locator.partition("{")[2].rstrip("}")
        return f"files/{series}/{record.channel}/{safe}.{segment}.fits"

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Export the records into the cache, with as few requests as their spacing allows.

        Raises
        ------
        FrameError
            FAILED_DOWNLOAD if JSOC does not deliver.
        """
        try:
            self.export(records)
        except EnvironmentFault as error:
            raise FrameError(FrameStatus.FAILED_DOWNLOAD, error.what) from None

    def fetch(self, record: FrameRecord) -> bytes:
        """Return a file: from the cache, or by an export of this one record.

        Raises
        ------
        FrameError
            FAILED_DOWNLOAD if JSOC does not deliver it.
        """
        file = record.segments[0][1] if len(record.segments) == 1 else record
        data = self._load(self._cached(file))
        if data is None:
            self.stage([dataclasses.replace(file, segments=(("", file),))])
            data = self._load(self._cached(file))
        if data is None:
            raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"JSOC exported no file for {file.locator}")
        return data

    def export(self, records: Sequence[FrameRecord]) -> None:
        """Export records into the cache; what is there is not asked for again, and open requests are taken up.

        Raises
        ------
        UsageError
            If no email address is known.
        EnvironmentFault
            If JSOC does not answer or refuses.
        """
        missing = [record for record in records if any(not self._has(file) for _, file in record.segments)]
        if missing and not self._email():
            raise UsageError(
                "JSOC exports need an email address that is registered there.",
                "JSOC tells by mail what became of exports.",
                _REGISTER,
            )
        for query, part in _queries(missing):
            self._export(query, part)

    def _export(self, query: str, records: list[FrameRecord]) -> None:
        """Run one export request to its end, keeping its id so that a later run takes it up."""
        state_name = f"exports/{hashlib.sha256(query.encode()).hexdigest()[:24]}.json"
        known = json.loads(self._load(state_name) or b"{}")
        request = None
        if known.get("requestid"):
            logger.info("taking up export %s", known["requestid"])
            request = self._ask(known["requestid"], lambda client: client.export_from_id(known["requestid"]))
            if request.status == _EXPIRED:
                request = None
        if request is None:
            request = self._ask(
                query,
                lambda client: client.export(query, method="url", protocol="fits", filenamefmt=False),
                self._email(),
            )
            self._save(state_name, json.dumps({"query": query, "requestid": request.id}).encode())
        network = self.config.network
        started = time.monotonic()
        for polls in itertools.count():
            if self._ask(query, lambda _: request.has_finished()):
                break
            if time.monotonic() - started > self.config.export_timeout_s:
                raise EnvironmentFault(
                    f"JSOC did not finish export {request.id} in {self.config.export_timeout_s:g} s.",
                    f"It prepares the files of {query}.",
                    "Repeat the command later: it takes up the same export.",
                )
            time.sleep(min(network.backoff_s * 1.5 ** min(polls, 20), 30.0))
        if not request.has_succeeded(skip_update=True):
            self._save(state_name, b"{}")
            raise EnvironmentFault(f"JSOC could not export {query}: status {request.status}", "", "Try again later.")
        wanted = {_record_and_segment(file.locator, ""): file for record in records for _, file in record.segments}
        for _, row in request.urls.iterrows():
            file = wanted.get(_record_and_segment(str(row["record"]), str(row["filename"])))
            if file is not None and not self._has(file):
                if not str(row["url"]).startswith(("http://", "https://")):
                    raise FrameError(FrameStatus.FAILED_DOWNLOAD, f"JSOC offers a file at {row['url']}")
                self._save(self._cached(file), fetch_bytes(str(row["url"]), network))


def _record_and_segment(record: str, filename: str) -> tuple[str, str]:
    """Return a file's record and segment; where the record's name has no or several segments, the file's name has it."""
    name, _, segment = record.partition("{")
    segment = segment.rstrip("}")
    if not segment or "," in segment:
        segment = filename.split(".")[-2] if filename.count(".") > 1 else "image"
    return name, segment


def _queries(records: list[FrameRecord]) -> Iterator[tuple[str, list[FrameRecord]]]:
    """Join records into runs of evenly spaced T_REC, each one query: ``series[first/length@step][key]{segments}``."""
    keyed = []
    for record in records:
        series, moment, rest = _PARTS.fullmatch(record.locator).groups()  # type: ignore[union-attr]
        keyed.append((series, rest, parse_fits_time(moment), moment, record))
    keyed.sort(key=lambda item: item[:3])
    run: list[Any] = []

    def close() -> tuple[str, list[FrameRecord]]:
        series, rest, first, text, _ = run[0]
        if len(run) == 1:
            span = text
        else:
            step = int((run[1][2] - first) / np.timedelta64(1, "s"))
            span = f"{text}/{step * len(run)}s@{step}s"
        return f"{series}[{span}]{rest}", [item[-1] for item in run]

    for item in keyed:
        if run:
            same = item[:2] == run[0][:2] and len(run) < _MOST_FRAMES_PER_EXPORT
            even = len(run) == 1 or item[2] - run[-1][2] == run[1][2] - run[0][2]
            if not (same and even and item[2] > run[-1][2]):
                yield close()
                run = []
        run.append(item)
    if run:
        yield close()
