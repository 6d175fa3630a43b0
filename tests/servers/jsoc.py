"""An HTTP server on loopback that answers as JSOC's endpoints do, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from sdoml_dist.solar.times import parse_fits_time

_QUERY = re.compile(r"^(?P<series>[\w.]+)\[(?P<span>[^\]]+)\](?:\[(?P<wavelength>\d+)\])?(?:\{(?P<segments>[^}]*)\})?")


@dataclass
class Jsoc:
    """What the server has and how it misbehaves.

    ``records`` maps (series, wavelength or None) to rows of keywords with the file's bytes, or the bytes per segment, under
    ``file``; ``failures`` counts
    down answers of HTTP 500 per kind of request; ``cut`` counts down downloads that end in the middle; ``silent`` counts
    down requests that are never answered; with ``trickle_s`` files come byte by byte with that pause.
    """

    records: dict[tuple[str, int | None], list[dict[str, Any]]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    silent: int = 0
    trickle_s: float = 0.0
    ranges: bool = True
    pending: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    exports: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    tree: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    def select(self, query: str) -> list[dict[str, Any]]:
        """Return the records of a record set ``series[time or time/length@step][wavelength]``."""
        match = _QUERY.match(query)
        assert match is not None, query
        wavelength = None if match["wavelength"] is None else int(match["wavelength"])
        rows = self.records.get((match["series"], wavelength), [])
        first, _, rest = match["span"].partition("/")
        if not rest:
            return [row for row in rows if row["T_REC"] == first]
        length, _, step = rest.partition("@")
        start = parse_fits_time(first)
        found = []
        for row in rows:
            away = float((parse_fits_time(row["T_REC"]) - start) / np.timedelta64(1, "s"))
            if 0 <= away < float(length.rstrip("s")) and (not step or away % float(step.rstrip("s")) == 0):
                found.append(row)
        return found

    def files(self, query: str) -> Iterator[tuple[str, str]]:
        """Yield record and file name of everything that a query exports."""
        segments = (_QUERY.match(query) or {})["segments"] or ""  # type: ignore[index]
        for row in self.select(query):
            if isinstance(row["file"], dict):
                for segment in segments.split(","):
                    yield f"{row['record']}{{{segment}}}", f"{row['*recnum*']}.{segment}.fits"
            else:
                yield row["record"], f"{row['*recnum*']}.fits"


class _Handler(BaseHTTPRequestHandler):
    jsoc: Jsoc

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._file(urlsplit(self.path).path)

    def do_GET(self) -> None:
        jsoc = self.jsoc
        parts = urlsplit(self.path)
        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        kind = options.get("op") or ("check" if "checkAddress" in parts.path else "file")
        jsoc.requests[kind] += 1
        if jsoc.silent > 0:
            jsoc.silent -= 1
            time.sleep(2.0)
            self.close_connection = True
            return
        if jsoc.failures[kind] > 0:
            jsoc.failures[kind] -= 1
            self.send_error(500, "the data base is tired")
        elif kind == "check":
            self._json({"status": 2 if "known" in options["address"] else 4})
        elif kind == "rs_list":
            rows = jsoc.select(options["ds"])
            keys = options["key"].split(",")
            keywords = [{"name": key, "values": [str(row[key]) for row in rows]} for key in keys]
            self._json({"status": 0, "count": len(rows), "keywords": keywords})
        elif kind == "exp_request":
            number = f"JSOC_{len(jsoc.exports) + 1}"
            jsoc.exports[number] = list(jsoc.files(options["ds"]))
            self._json({"status": 2, "requestid": number, "method": "url", "protocol": "fits", "wait": 0})
        elif kind == "exp_status":
            self._status(options["requestid"])
        else:
            self._file(parts.path)

    def _status(self, number: str) -> None:
        jsoc = self.jsoc
        if number not in jsoc.exports:
            self._json({"status": 6, "requestid": number, "error": "no such request"})
        elif jsoc.pending > 0:
            jsoc.pending -= 1
            self._json({"status": 1, "requestid": number, "wait": 0})
        else:
            data = [{"record": record, "filename": name} for record, name in jsoc.exports[number]]
            answer = {"status": 0, "requestid": number, "method": "url", "protocol": "fits", "dir": f"/SUM/{number}"}
            self._json(answer | {"count": len(data), "data": data})

    def _file(self, path: str) -> None:
        data = self.jsoc.tree.get(path)
        for row in [row for rows in self.jsoc.records.values() for row in rows]:
            if path.startswith("/SUM/") and path.rsplit("/", 1)[1].startswith(f"{row['*recnum*']}."):
                data = row["file"][path.split(".")[-2]] if isinstance(row["file"], dict) else row["file"]
        inside = sorted({name.removeprefix(f"{path.rstrip('/')}/").split("/")[0] for name in self.jsoc.tree
                         if name.startswith(f"{path.rstrip('/')}/")})  # fmt: skip
        if data is None and inside:
            folders = {name for name in inside if f"{path.rstrip('/')}/{name}" not in self.jsoc.tree}
            links = "".join(f'<a href="{name}{"/" * (name in folders)}">{name}</a>' for name in inside)
            self._send(f"<html><body><a href='../'>Parent</a>{links}</body></html>".encode(), "text/html")
            return
        if data is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        start, end = 0, len(data)
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.jsoc.ranges and self.headers.get("If-Range", etag) == etag:
            start, end = int(asked[1]), min(int(asked[2] or len(data)) + bool(asked[2]), len(data))
        partial = (start, end) != (0, len(data))
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", etag)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        data = data[:end]
        if self.jsoc.trickle_s:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(self.jsoc.trickle_s)
            return
        if self.jsoc.cut > 0:
            self.jsoc.cut -= 1
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def _json(self, answer: dict[str, Any]) -> None:
        self._send(json.dumps(answer).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serve(jsoc: Jsoc) -> Iterator[Jsoc]:
    """Run the server on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"jsoc": jsoc})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    jsoc.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield jsoc
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
