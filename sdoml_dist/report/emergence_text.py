"""Emergence datasets and their plans as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from sdoml_dist.emergence_plan import QUANTITIES, EmergencePlan
from sdoml_dist.recipe_base import Store
from sdoml_dist.report.plan_text import human_bytes, human_hours
from sdoml_dist.store.emergence_reader import Emergence

if TYPE_CHECKING:
    from sdoml_dist.engine.emergence import EmergenceSummary

_OUTCOMES = ("ok", "missing", "rejected", "failed", "pending")


def plan_table(plan: EmergencePlan) -> str:
    """Return what a plan will take."""
    estimate, recipe = plan.estimate(), plan.recipe
    power = recipe.power
    rows = [
        ("plan", f"{plan.plan_id}   recipe {recipe.fingerprint}"),
        ("regions", f"{estimate.regions:,} of {recipe.tracking.pixels} x {recipe.tracking.pixels} pixels"),
        ("windows", f"{estimate.windows:,} of {power.window} frames, every {power.step / 60:g} minutes"),
        ("full-disc frames", f"{estimate.frames:,}, each read once ({human_bytes(estimate.source_bytes)})"),
        ("units", ", ".join(f"{number:,} {stage}" for stage, number in estimate.units.items())),
        ("arrays", f"{human_bytes(estimate.raw_bytes)}, stored about {human_bytes(estimate.stored_bytes)}"),
        ("memory of a worker", human_bytes(estimate.memory_per_actor_bytes)),
        ("work of one core", ", ".join(f"{stage} {human_hours(h)}" for stage, h in estimate.core_hours.items())),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def accounting_table(store: str | Store, version: str | None = None, **options: Any) -> str:
    """Return the accounting per region and quantity: ``planned = ok + missing + rejected + failed + pending``."""
    dataset = Emergence(store, version, **options)
    rows = []
    for number, region in dataset.regions.items():
        counts = dataset.accounting(number)
        for quantity in QUANTITIES:
            count = counts[quantity]
            rows.append(
                {"region": region.name, "quantity": quantity, "planned": count.total()}
                | {name: count[name] for name in _OUTCOMES}
                | {"power": f"{dataset.done(number):.0%}" if quantity == "V" else ""}
            )
    return pd.DataFrame(rows).to_string(index=False)


def stage_lines(summary: EmergenceSummary) -> str:
    """Describe the stages of a run, a line each."""
    lines = []
    for name, stage in summary.stages.items():
        done = stage.outcomes.total()
        share = (stage.read_s + stage.write_s) / stage.busy_s if stage.busy_s else 0.0
        lines.append(
            f"{name}: {done} {'frames' if name == 'track' else 'windows'} in {stage.units} units, {stage.seconds:.1f} s, "
            f"workers busy {stage.busy_s:.1f} s, of which reading and writing arrays {share:.0%}"
        )
    lines.append(
        f"{summary.actors} actors, {summary.commits} commits, peak memory of a worker "
        f"{human_bytes(summary.peak_memory_bytes)}"
    )
    return "\n".join(lines)
