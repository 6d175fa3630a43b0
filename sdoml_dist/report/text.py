"""Tables and lines for the terminal."""

from __future__ import annotations

import json
import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sdoml_dist.errors import ExitCode, UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.plan_text import human_bytes as human_bytes
from sdoml_dist.report.plan_text import plan_table as plan_table
from sdoml_dist.solar.times import parse_fits_time
from sdoml_dist.store.finalise import PATH
from sdoml_dist.store.reader import Opened, accounting, as_store, frames, open_products
from sdoml_dist.store.repository import BRANCH, open_repository
from sdoml_dist.store.storage import join, sidecar_filesystem

if TYPE_CHECKING:
    from sdoml_dist.engine.run import Summary

_MOST_LINES = 50


def accounting_table(store: str | Store, version: str | None = None, **options: Any) -> str:
    """Return the accounting per channel as text."""
    return accounting(store, version, **options).to_string()


def run_line(summary: Summary) -> str:
    """Describe a run in one line."""
    done = summary.outcomes.total()
    rate = done / summary.seconds if summary.seconds else 0.0
    return (
        f"{done} frames in {summary.seconds:.1f} s ({rate:.1f} frames/s, {summary.actors} actors), "
        f"{summary.commits} commits, peak memory of a worker {human_bytes(summary.peak_memory_bytes)}"
    )


def parse_end(text: str, cadence_s: int) -> str:
    """Read the end of a period, ``now`` being the last full slot."""
    if text == "now":
        now = int(clock.time()) // cadence_s * cadence_s
        return str(np.datetime64(now, "s"))
    try:
        return str(parse_fits_time(text).astype("datetime64[s]"))
    except ValueError as error:
        raise UsageError(f"--to: {error}", "", "For example --to 2011-03-01 or --to now.") from None


def latest_run(store: Store) -> dict[str, Any] | None:
    """Return the record of the latest run, or None."""
    filesystem, folder = sidecar_filesystem(store)
    found = sorted(filesystem.glob(join(folder, "runs", "*", "run.json")))
    if not found:
        return None
    record: dict[str, Any] = json.loads(filesystem.cat_file(found[-1]))
    return record


def status_report(dataset: str, *, failed: bool, as_json: bool, **options: Any) -> tuple[str, int]:
    """Return what ``sdoml status`` prints, and its exit code (3 if frames failed)."""
    store = as_store(dataset, **options)
    table = accounting(store)
    totals = {key: int(value) for key, value in table.loc["all"].items()}
    code = ExitCode.FRAMES_FAILED if totals["failed"] else ExitCode.COMPLETE
    listed = pd.DataFrame()
    if failed:
        listed = frames(store, details=True)
        listed = listed[listed.outcome == "failed"]
    if as_json:
        data: dict[str, Any] = {
            "frames": totals,
            "channels": {str(name): {k: int(v) for k, v in row.items()} for name, row in table.iloc[:-1].iterrows()},
            "run": latest_run(store),
        }
        if failed:
            data["failed"] = json.loads(listed.to_json(orient="records", date_format="iso"))
        return json.dumps(data, indent=2), code
    lines = [table.to_string()]
    if (run := latest_run(store)) is not None:
        began = clock.strftime("%Y-%m-%d %H:%M:%S", clock.gmtime(run["started_unix_s"]))
        ended = f"exit code {run['exit_code']}" if run["state"] == "ended" else "running or killed"
        lines.append(f"latest run: {run['verb']} from {began} UTC on {run['host']}, {ended}")
    for _, row in listed.head(_MOST_LINES).iterrows():
        lines.append(f"{row.time:%Y-%m-%dT%H:%M:%S} {row.channel:>5} {row.reason}: {row.detail}  ({row.source})")
    if len(listed) > _MOST_LINES:
        lines.append(f"... and {len(listed) - _MOST_LINES} more (--json lists all)")
    return "\n".join(lines), code


def inspect_report(dataset: str, version: str | None, *, as_json: bool, **options: Any) -> str:
    """Return what ``sdoml inspect`` prints."""
    store = as_store(dataset, **options)
    opened = open_products(store, version)
    if as_json:
        return json.dumps([_inspected(store, version, one)[0] for one in opened], indent=2)
    return "\n\n".join(_inspected(store, version, one)[1] for one in opened)


def _inspected(store: Store, version: str | None, opened: Opened) -> tuple[dict[str, Any], str]:
    """Describe one product as data and as text."""
    group, recipe = opened.group, opened.recipe
    plan = Plan(recipe)
    table = accounting(store, version, product=opened.name)
    totals = {key: int(value) for key, value in table.loc["all"].items()}
    done = 1 - totals["pending"] / max(totals["planned"], 1)
    data: dict[str, Any] = {
        "url": store.url, "snapshot": opened.session.snapshot_id, "product": opened.name, "recipe": recipe.name,
        "fingerprint": recipe.fingerprint,
        "period": recipe.period.model_dump(), "cadence_s": recipe.cadence, "channels": list(recipe.channels),
        "pixels": recipe.grid.pixels, "convention": recipe.grid.convention, "done": done, "frames": totals,
        "calibration": group.attrs["calibration"], "software": group.attrs["software"],
    }  # fmt: skip
    lines = [plan_table(plan), f"{'done':>10}  {done:.1%} of {totals['planned']:,} frames"]
    calibration: Any = group.attrs["calibration"]
    for name, table_data in calibration.items():
        label = f"{table_data['file']} (sha256 {table_data['sha256'][:12]}...)"
        lines.append(f"{'':>10}  {name}: {label}")
    if PATH in group:
        stats = {key: np.asarray(group[f"{PATH}/{key}"][...]) for key in ("mean", "std", "minimum", "maximum")}
        lines.append(pd.DataFrame(stats, index=list(recipe.channels)).to_string(float_format=lambda v: f"{v:.4g}"))
    return data, "\n".join(lines)


def versions_report(dataset: str, *, as_json: bool, **options: Any) -> str:
    """Return what ``sdoml versions`` prints: tags first, then commits from new to old."""
    repository = open_repository(as_store(dataset, **options))
    tags = {name: repository.lookup_tag(name) for name in sorted(repository.list_tags())}
    commits = [
        {"snapshot": info.id, "written": info.written_at.isoformat(timespec="seconds"), "message": info.message}
        for info in repository.ancestry(branch=BRANCH)
    ]
    if as_json:
        return json.dumps({"tags": tags, "commits": commits}, indent=2)
    lines = [f"tag {name:<20} {snapshot}" for name, snapshot in tags.items()]
    lines += [f"{item['written']}  {item['snapshot']}  {item['message']}" for item in commits]
    return "\n".join(lines)


def reading_lines(dataset: str | Path, time: str) -> str:
    """Return five lines of Python that read a dataset."""
    return (
        "import sdoml_dist\n"
        f'ds = sdoml_dist.open_dataset("{dataset}")\n'
        'print(ds["171A"].sizes, ds["EXPTIME"].sel(channel="171A").values[:3])\n'
        f'sun = sdoml_dist.to_map(ds, "171A", "{time}")\n'
        "print(sun.center, sun.rsun_obs)"
    )
