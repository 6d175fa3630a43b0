"""What ``sdoml plan`` prints: a table per product, their total, and how long given machines take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sdoml_dist.errors import UsageError
from sdoml_dist.plan import REFERENCE, Estimate, Machines, Plan, Schedule, Speed, total
from sdoml_dist.recipe_base import parse_size

_LIMITS = {
    "CPUs": "the CPUs of the nodes limit",
    "memory": "the memory of the nodes limits: more CPUs would stay idle",
    "resources.maximum_actors": "resources.maximum_actors limits",
    "number of units": "there are not more units: smaller chunking.shard_slots would make more",
    "driver": "the driver limits, which collects and commits units one after the other",
    "source": "the source limits",
}


def human_bytes(number: float) -> str:
    """Write a number of bytes with a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 1000:
            return f"{number:.3g} {prefix}B"
        number /= 1000
    return f"{number:.3g} PB"


def human_hours(hours: float) -> str:
    """Write a time in the unit that suits it."""
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} s"
    if hours < 1:
        return f"{hours * 60:.3g} minutes"
    return f"{hours:.3g} hours" if hours < 72 else f"{hours / 24:.3g} days"


def machines_of(
    nodes: int | None, cpus_per_node: float | None, memory_per_node: str | None, source_rate: str | None = None
) -> Machines | None:
    """Return the machines that options describe, or None where they describe none.

    Raises
    ------
    UsageError
        If only some are given, or one makes no sense.
    """
    if nodes is None and cpus_per_node is None and memory_per_node is None and source_rate is None:
        return None
    if nodes is None or cpus_per_node is None or memory_per_node is None:
        raise UsageError(
            "--nodes, --cpus-per-node and --memory-per-node belong together.",
            "All three decide how many actors fit.",
            "For example --nodes 4 --cpus-per-node 32 --memory-per-node 128GB",
        )
    try:
        memory = parse_size(memory_per_node)
        rate = None if source_rate is None else float(parse_size(source_rate))
    except ValueError as error:
        raise UsageError(f"--memory-per-node or --source-rate: {error}") from None
    if min(nodes, cpus_per_node, memory) <= 0 or rate == 0:
        raise UsageError("--nodes, --cpus-per-node, --memory-per-node and --source-rate are above 0.")
    return Machines(nodes, cpus_per_node, memory, rate)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name:>10}  {value}" for name, value in rows)


def _size(estimate: Estimate) -> str:
    return (
        f"{human_bytes(estimate.stored_bytes)} in about {estimate.objects:,} objects "
        f"({human_bytes(estimate.raw_bytes)} uncompressed)"
    )


def plan_table(plan: Plan, speed: Speed = REFERENCE, machines: Machines | None = None) -> str:
    """Describe a plan for people.

    Parameters
    ----------
    plan : Plan
        The plan.
    speed : Speed
        Of one core.
    machines : Machines, optional
        A cluster to say the time for.
    """
    recipe, estimate = plan.recipe, plan.estimate(speed)
    rows = [
        ("recipe", f"{recipe.name}  (fingerprint {recipe.fingerprint}, plan {plan.plan_id})"),
        ("period", f"{recipe.period.start} to {recipe.period.end} UTC, every {recipe.cadence} s"),
        ("product", recipe.contents.title),
        ("channels", ", ".join(recipe.channels)),
        *([("image", f"{recipe.grid.pixels} x {recipe.grid.pixels}, Sun's radius {recipe.grid.solar_radius_arcsec:g}\" "
                     f"= {recipe.grid.pixels * recipe.grid.solar_radius_arcsec / 2457.6:.2f} pixels")]
          if recipe.contents.kind == "images" else []),
        ("source", f"{recipe.source.kind}, level {recipe.level}, about {human_bytes(estimate.source_bytes)} to read"),
        ("store", recipe.store.url),
        ("frames", f"{estimate.frames:,} ({plan.slots:,} slots x {len(recipe.channels)} channels)"),
        ("units", f"{estimate.units:,} shards of {recipe.shard_slots} slots"),
        ("size", _size(estimate)),
        ("memory", f"{human_bytes(estimate.memory_per_actor_bytes)} per actor"),
        ("time", f"about {estimate.core_hours:.3g} core-hours "
                 f"({estimate.frames / estimate.core_hours / 3600:.3g} frames/s per core)"),
        *(_machine_rows(plan.schedule(machines, speed), machines) if machines else []),
    ]  # fmt: skip
    return _table(rows)


def _machine_rows(schedule: Schedule, machines: Machines) -> list[tuple[str, str]]:
    return [
        ("cluster", f"{schedule.actors:,} actors on {machines.nodes} nodes ({schedule.actors_per_node} fit on each)"),
        ("", f"{human_hours(schedule.wall_hours)}, {schedule.node_hours:.3g} node-hours; {_LIMITS[schedule.limit]}"),
        ("", f"the source has to deliver {human_bytes(schedule.source_bytes_per_s)}/s"),
    ]


def mission_table(plans: Sequence[Plan], speed: Speed = REFERENCE, machines: Machines | None = None) -> str:
    """Describe the plans of one or more products for people: each by itself, their total, and whose figures these are."""
    blocks = [plan_table(plan, speed, machines) for plan in plans]
    if len(plans) > 1:
        everything = total([plan.estimate(speed) for plan in plans])
        rows = [
            ("total", f"{len(plans)} products: {', '.join(plan.recipe.product for plan in plans)}"),
            ("frames", f"{everything.frames:,}"),
            ("units", f"{everything.units:,}"),
            ("size", _size(everything)),
            ("source", f"about {human_bytes(everything.source_bytes)} to read"),
            ("memory", f"{human_bytes(everything.memory_per_actor_bytes)} per actor at most"),
            ("time", f"about {everything.core_hours:.3g} core-hours"),
        ]
        if machines:
            time = _in_turn(plans, speed, machines)
            rows.append(
                ("cluster", f"{human_hours(time['wall_hours'])}, {time['node_hours']:.3g} node-hours, one product after another")
            )  # fmt: skip
        blocks.append(_table(rows))
    blocks.append(_table([("figures", speed.origin)]))
    return "\n\n".join(blocks)


def _in_turn(plans: Sequence[Plan], speed: Speed, machines: Machines) -> dict[str, float]:
    schedules = [plan.schedule(machines, speed) for plan in plans]
    return {name: sum(getattr(one, name) for one in schedules) for name in ("wall_hours", "node_hours")}


def mission_data(plans: Sequence[Plan], speed: Speed = REFERENCE, machines: Machines | None = None) -> dict[str, Any]:
    """Return the plans as plain data.

    Returns
    -------
    dict
        The totals, ``speed`` with its ``origin``, ``machines`` if given, and ``products``: a plan each, with its
        ``schedule`` on the machines. What describes a single product stands at the top as well.
    """
    products = [
        plan.summary(speed) | ({"schedule": asdict(plan.schedule(machines, speed))} if machines else {})
        for plan in plans
    ]
    data: dict[str, Any] = dict(products[0]) if len(products) == 1 else {"name": plans[0].recipe.name}
    data |= asdict(total([plan.estimate(speed) for plan in plans]))
    data["products"] = products
    data["speed"] = asdict(speed) | {"origin": speed.origin}
    if machines:
        data["machines"] = asdict(machines)
        data |= _in_turn(plans, speed, machines)
    return data
