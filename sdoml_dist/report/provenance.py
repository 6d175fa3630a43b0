"""The sections of a report about where a dataset came from: calibration, software, recipe, runs, versions."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from html import escape
from typing import Any

from sdoml_dist.report.parts import note, table
from sdoml_dist.report.run_chart import run_chart
from sdoml_dist.report.view import DatasetView
from sdoml_dist.store.storage import local_path

_MOST_RUNS = 8
_MOST_COMMITS = 12
_ENDED = {0: "complete", 3: "some frames failed", 75: "stopped", 5: "environment", 1: "bug", 2: "usage", 4: "invalid"}


def place(view: DatasetView) -> dict[str, str]:
    """Return which version of which dataset this is, by name."""
    tags = [name for name, snapshot in view.tags().items() if snapshot == view.snapshot]
    version = ", ".join(f"tag {name}" for name in tags) or ("newest commit" if view.is_newest() else "older commit")
    return {
        "Version": f"{escape(version)} <code>{escape(view.snapshot)}</code>",
        "Dataset": f"<code>{escape(view.url)}</code>",
    }


def provenance(view: DatasetView) -> str:
    """Return calibration, software and recipe of a product."""
    attributes = view.attributes()
    text = ""
    calibration = [
        [escape(name), escape(str(item.get("version", "–"))), escape(str(item.get("file", ""))),
         f"<code>{escape(str(item.get('sha256', '')))}</code>"]
        for name, item in dict(attributes.get("calibration") or {}).items()
    ]  # fmt: skip
    if calibration:
        title = "Calibration tables"
        text += f"<h3>{title}</h3>" + table(["Table", "Version", "File", "SHA-256"], calibration, title, "words")
    else:
        text += note("No calibration tables were used.")
    software = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(found))}</dd></div>"
        for name, found in dict(attributes.get("software") or {}).items()
    )
    ids = "".join(f"<div><dt>{name}</dt><dd><code>{escape(str(attributes.get(name, '–')))}</code></dd></div>" for name in
                  ("fingerprint", "plan_id"))  # fmt: skip
    text += f'<h3>Software</h3><dl class="inline">{software}</dl><h3>Recipe</h3><dl class="inline">{ids}</dl>'
    if references := str(attributes.get("references") or ""):
        text += note(escape(references))
    text += f"<details><summary>Recipe as YAML</summary><pre>{escape(view.recipe_text())}</pre></details>"
    return text


def versions(views: Sequence[DatasetView]) -> str:
    """Return the section about tags, commits and runs of a dataset."""
    view = views[0]
    named: dict[str, list[str]] = {}
    for name, snapshot in view.tags().items():
        named.setdefault(snapshot, []).append(name)
    listed, total = view.commits(_MOST_COMMITS)
    body = [
        [item["written"], f"<code>{escape(item['snapshot'])}</code>",
         " ".join(f'<mark>{escape(name)}</mark>' for name in named.get(item["snapshot"], [])), escape(item["message"])]
        for item in listed
    ]  # fmt: skip
    tags = ", ".join(f"<mark>{escape(name)}</mark> <code>{s}</code>" for s, names in named.items() for name in names)
    text = f"<p>Tags: {tags}.</p>" if tags else note("No tags yet: 'sdoml tag' gives a commit a name that stays.")
    title = "Commits" if total == len(listed) else f"The latest {len(listed)} of {total:,} commits"
    text += f"<h3>{title}</h3>" + table(["Written", "Snapshot", "Tags", "Message"], body, title, "words")
    records, total = view.runs(_MOST_RUNS)
    if records:
        title = "Runs" if total == len(records) else f"The latest {len(records)} of {total} runs"
        columns = ["Started", "Command", "Ended", "Took", "Frames", "Actors", "Host"]
        text += f"<h3>{title}</h3>" + table(columns, [_run(record) for record in records], title, "words")
        text += run_chart(view.history())
    url = view.url if local_path(view.url) is None else str(local_path(view.url))
    lines = [
        f'{one.product if len(views) > 1 else "ds"} = sdoml_dist.open_dataset("{url}", "{view.snapshot}"'
        + (f', product="{one.product}")' if len(views) > 1 else ")")
        for one in views
    ]
    code = "\n".join(["import sdoml_dist", "", *lines])
    text += f"<h3>Reading this version</h3><pre>{escape(code)}</pre>"
    return (
        f'<section id="versions" aria-labelledby="versions-title"><h2 id="versions-title">Versions</h2>{text}</section>'
    )


def _run(record: dict[str, Any]) -> list[str]:
    started = clock.strftime("%Y-%m-%d %H:%M", clock.gmtime(float(record.get("started_unix_s", 0))))
    code = record.get("exit_code")
    ended = (
        f"{_ENDED.get(int(code or 0), 'exit code')} ({code})" if record.get("state") == "ended" else "running or killed"
    )
    seconds = record.get("seconds")
    took = "–" if not seconds else (f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 3600:,.1f} h")
    outcomes = ", ".join(f"{int(n):,} {name}" for name, n in dict(record.get("outcomes") or {}).items())
    verb, actors, host = (escape(str(record.get(key) or "–")) for key in ("verb", "actors", "host"))
    return [started, verb, escape(ended), took, escape(outcomes) or "–", actors, host]
