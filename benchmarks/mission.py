"""The whole mission on a thousand workers, simulated: how long it takes, what it costs, and what breaks first.

python benchmarks/mission.py [--workers 1000] [--units N] [--history DATASET] [-o docs/mission.png]     (all units: six minutes)

A discrete-event simulation around the real planner and the real committer. The plan is that of jobs/recipes/full-mission.yaml
(AIA, every unit), units last as measured, workers fail, straggle and come back; every receipt has the columns of a whole
shard, and every commit is made, into a real repository on this disk, and counts with the CPU time it took here. What Ray
costs the driver per unit is measured by benchmarks/scale.py. Then the same mission on more and fewer workers, with the
commits' cost as fitted.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale import IdlePreprocessor, driver_memory
from sdoml_dist.atomic import write_atomic
from sdoml_dist.engine.collect import give_back_memory
from sdoml_dist.pipelines.preprocess import Preprocessor
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.plan import Plan, Unit
from sdoml_dist.recipe_file import load_recipes, parse_recipe
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.make import make_source
from sdoml_dist.sources.simulator import SimulatorSource
from sdoml_dist.store.dataset import Dataset

SWEEP = (10, 30, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
_START = np.datetime64("2011-02-15T00:00", "ns")


@dataclass(frozen=True)
class World:
    """What the simulation assumes besides the program itself.

    Attributes
    ----------
    unit_s, spread : float
        Mean time of a unit, seconds, and its standard deviation over the mean.
    straggler_share, straggler_factor : float
        Share of units that take so many times longer: busy machines, slow sources.
    failures_per_hour : float
        Losses of one worker per hour: spot machines, memory.
    notice_s, restart_s : float
        From a loss to Ray's notice of it, and from there to the next unit of another worker.
    answer_s : float
        What a unit's dispatch and answer cost the driver (benchmarks/scale.py).
    in_flight : int
        Units that a worker holds, that under way included.
    """

    unit_s: float
    spread: float
    straggler_share: float = 0.01
    straggler_factor: float = 10.0
    failures_per_hour: float = 0.05
    notice_s: float = 10.0
    restart_s: float = 60.0
    answer_s: float = 0.0085
    in_flight: int = 2


@dataclass
class Run:
    """What happened in a simulated run.

    Attributes
    ----------
    wall_s, busy_s : float
        From the first unit to the last commit; and what all workers worked on units that counted.
    driver_s, commit_s : float
        What the driver was busy, and what of it with commits.
    commits, lost : int
        Commits made; units that were lost with their worker and done again.
    at, units, took, memory : list
        After each commit: simulated seconds, units so far, real seconds of the commit, bytes of the driver.
    """

    wall_s: float = 0.0
    busy_s: float = 0.0
    driver_s: float = 0.0
    commit_s: float = 0.0
    commits: int = 0
    lost: int = 0
    at: list[float] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


def simulate(
    number: int, workers: int, world: World, every: int, every_s: float, commit: Callable[[list[int]], float],
    seed: int = 0,
) -> Run:  # fmt: skip
    """Drive units over workers through the one driver.

    The driver does one thing after another: it takes answers, hands out the next unit, and commits when `every` units
    wait or the oldest has waited `every_s`. (It commits in a thread; counted as if it did not, which is the worse case.)

    Parameters
    ----------
    number, workers : int
        Units, and workers.
    world : World
        Times and failures.
    every, every_s : int, float
        When to commit.
    commit : callable
        Commits the units of these numbers and returns the seconds that it took.
    seed : int
        Of the random times.
    """
    random = np.random.default_rng(seed)
    shape = 1.0 / max(world.spread, 1e-3) ** 2
    waiting, run = deque(range(number)), Run()
    # Units that a worker has besides the one under way.
    queued: list[deque[int]] = [deque() for _ in range(workers)]
    idle = [True] * workers
    events: list[tuple[float, int, str, int, int]] = []
    serial = 0

    def push(at: float, what: str, worker: int, unit: int) -> None:
        nonlocal serial
        serial += 1
        heapq.heappush(events, (at, serial, what, worker, unit))

    def begin(worker: int, now: float) -> None:
        if not queued[worker]:
            idle[worker] = True
            return
        idle[worker] = False
        unit = queued[worker].popleft()
        seconds = world.unit_s * random.gamma(shape, 1.0 / shape)
        if random.random() < world.straggler_share:
            seconds *= world.straggler_factor
        failure = random.exponential(3600.0 / world.failures_per_hour) if world.failures_per_hour else np.inf
        if failure < seconds:
            push(now + failure + world.notice_s, "lost", worker, unit)
        else:
            run.busy_s += seconds
            push(now + seconds, "done", worker, unit)

    def hand_out(worker: int, now: float) -> None:
        if waiting:
            queued[worker].append(waiting.popleft())
            if idle[worker]:
                begin(worker, now)

    driver, done, finished, oldest = 0.0, [], 0, 0.0
    for _ in range(world.in_flight):
        for worker in range(workers):
            driver += world.answer_s / 2
            hand_out(worker, driver)
    while finished < number:
        now, _, what, worker, unit = heapq.heappop(events)
        if what == "back":
            for _ in range(world.in_flight):
                hand_out(worker, now)
            continue
        if what == "lost":
            run.lost += 1
            # Ray repeats what the worker had; here on whichever is free next.
            waiting.extendleft([*queued[worker], unit])
            queued[worker].clear()
            idle[worker] = True
            push(now + world.restart_s, "back", worker, -1)
            continue
        begin(worker, now)
        driver = max(driver, now) + world.answer_s
        run.driver_s += world.answer_s
        hand_out(worker, driver)
        oldest = driver if not done else oldest
        done.append(unit)
        finished += 1
        if len(done) >= every or driver - oldest >= every_s or finished == number:
            seconds = commit(done)
            driver += seconds
            run.driver_s += seconds
            run.commit_s += seconds
            run.commits += 1
            run.at.append(driver)
            run.units.append(finished)
            run.took.append(seconds)
            run.memory.append(driver_memory())
            done = []
    run.wall_s = driver
    return run


def measured(units: int = 8, frames: int = 4) -> tuple[float, float]:
    """Return the seconds per frame of synoptic files on this machine, and their spread over units.

    Files of 1024 pixels of several channels go through the real worker; its CPU time counts, for waiting for a busy
    machine says nothing about another one.
    """
    config = SimulationConfig(pixels=1024, frame_cadence_s=360)
    channels = ("94A", "171A", "304A", "1600A")
    end = _START + units // len(channels) * frames * np.timedelta64(360, "s")
    with tempfile.TemporaryDirectory() as folder:
        source = SimulatorSource(config)
        for channel in channels:
            for path, record in source.files(channel, _START, end):
                write_atomic(Path(folder) / "level1" / path, source.fetch(record))
        recipe = parse_recipe(
            {
                "name": "units", "period": {"start": str(_START)[:19], "end": str(end)[:19]}, "cadence": "6min",
                "tolerance": "1min", "channels": list(channels), "store": {"url": f"{folder}/d"},
                "source": {"kind": "files", "url": f"{folder}/level1", "pixels": 1024},
                "chunking": {"shard_slots": frames},
            }
        )  # fmt: skip
        dataset = Dataset(Plan(recipe), calibration_identity(recipe))
        make_source(recipe).prepare(list(channels), _START, end)
        worker, work = Preprocessor(recipe, dataset.fork_bytes), dataset.pending()
        worker.process(*work[0])
        seconds = []
        for task in work:
            began = time.process_time()
            worker.process(*task)
            seconds.append((time.process_time() - began) / frames)
    return float(np.mean(seconds)), float(np.std(seconds) / np.mean(seconds))


def of_history(folder: str) -> tuple[float, float]:
    """Return the seconds per frame of the units of a dataset on disk, and their spread."""
    parts = sorted(Path(folder).glob("sdoml/runs/*/history-*.jsonl"))
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    each = np.array([line["seconds"] / line["frames"] for line in lines if line["frames"]])
    return float(each.mean()), float(each.std() / each.mean())


def cost(run: Run, workers: int, stored_bytes: int, objects: int, prices: dict[str, float]) -> dict[str, float]:
    """Return the cost in the currency of the prices: cores by the hour, requests that write, a month of storage."""
    return {
        "cores": workers * run.wall_s / 3600 * prices["core_hour"],
        "requests": objects * prices["thousand_writes"] / 1000,
        "storage_per_month": stored_bytes / 1e12 * prices["terabyte_month"],
    }


def fitted(run: Run) -> Callable[[list[int]], float]:
    """Return what commits cost in a run, seconds per unit: the median. A manifest holds a year of one array and does not grow."""
    each = float(np.median(np.array(run.took) / np.diff([0, *run.units])))
    return lambda units: each * len(units)


def committed(plan: Plan, folder: str) -> tuple[Callable[[list[int]], float], dict[str, float]]:
    """Open a real dataset for a plan; return what commits units of it, and what opening took."""
    recipe = plan.recipe.model_copy(update={"store": plan.recipe.store.model_copy(update={"url": f"{folder}/d"})})
    before, began = driver_memory(), time.monotonic()
    dataset = Dataset(Plan(recipe), {})
    created = time.monotonic() - began
    began = time.monotonic()
    work: list[tuple[Unit, np.ndarray]] = dataset.pending()
    looked = time.monotonic() - began
    idle = IdlePreprocessor(recipe, dataset.fork_bytes)

    def commit(units: list[int]) -> float:
        receipts = [idle.process(*work[unit]) for unit in units]
        # Of all threads: what it takes on one core, whatever else this machine does.
        began = time.process_time()
        dataset.commit(receipts, f"{len(units)} units", {"run_id": "mission"})
        receipts.clear()
        give_back_memory()
        return time.process_time() - began

    memory = (driver_memory() - before) / 2**20
    return commit, {"create_s": created, "list_of_work_s": looked, "list_of_work_MiB": memory}


def draw(real: Run, run: Run, sweep: Sequence[tuple[int, Run]], world: World, output: str) -> None:
    """Draw wall time, utilisation, cost of commits and memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((left, right), (below, last)) = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    workers = np.array([number for number, _ in sweep])
    hours = np.array([one.wall_s / 3600 for _, one in sweep])
    ideal = sweep[0][1].busy_s / workers / 3600
    left.loglog(workers, hours, "o-", label="simulated")
    left.loglog(workers, ideal, "--", color="grey", label="work / workers")
    left.set(xlabel="workers", ylabel="wall time, hours", title="The mission's AIA images")
    left.legend()
    shares = [one.busy_s / (number * one.wall_s) for number, one in sweep]
    right.semilogx(workers, 100 * np.array(shares), "o-", label="workers")
    right.semilogx(workers, [100 * one.driver_s / one.wall_s for _, one in sweep], "s-", label="driver")
    right.semilogx(workers, [100 * one.commit_s / one.wall_s for _, one in sweep], "^:", label="driver, commits alone")
    right.set(xlabel="workers", ylabel="busy, %", ylim=(0, 105), title="Who is busy")
    right.legend()
    sizes = np.diff([0, *real.units])
    below.plot(real.units, 1e3 * np.array(real.took) / sizes, ".", ms=3)
    below.set(xlabel="units committed", ylabel="commit, ms per unit", title="Real commits", ylim=(0, None))
    last.plot(real.units, np.array(real.memory) / 2**20)
    last.set(
        xlabel="units committed", ylabel="driver, MiB", title="Memory of plan, list of work and committer", ylim=(0, None)
    )  # fmt: skip
    for axis in (left, right, below, last):
        axis.grid(alpha=0.3)
    figure.suptitle(f"{run.units[-1]:,} units of {world.unit_s:.1f} s", fontsize=11)
    figure.savefig(output, dpi=110)


def main() -> None:
    """Simulate, print the figures and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--units", type=int, help="commit the first units only; the others cost as fitted")
    parser.add_argument("--history", help="a dataset on disk, whose units say how long one takes")
    parser.add_argument(
        "--frame-seconds", type=float, help="seconds per frame instead, for a source that is waited for"
    )
    parser.add_argument(
        "--answer-ms", type=float, default=1e3 * World.answer_s, help="of the driver per unit, without commits"
    )
    parser.add_argument("--core-hour", type=float, default=0.04, help="price of a core for an hour")
    parser.add_argument("--thousand-writes", type=float, default=0.005, help="price of 1000 objects written")
    parser.add_argument("--terabyte-month", type=float, default=23.0, help="price of 1 TB for a month")
    parser.add_argument("-o", "--output", default="mission.png")
    options = parser.parse_args()

    began = time.monotonic()
    recipe = load_recipes("full-mission", product="aia")[0]
    plan = Plan(recipe)
    estimate = plan.estimate()
    planned = time.monotonic() - began
    frame_s, spread = of_history(options.history) if options.history else measured()
    frame_s = options.frame_seconds or frame_s
    world = World(frame_s * recipe.shard_slots, spread, answer_s=options.answer_ms / 1e3)
    made, number = min(options.units or estimate.units, estimate.units), estimate.units
    resources = recipe.resources
    with tempfile.TemporaryDirectory() as folder:
        commit, opened = committed(plan, folder)
        real = simulate(made, options.workers, world, resources.commit_every_units, resources.commit_every_s, commit)

    def whole(workers: int) -> Run:
        return simulate(
            number, workers, world, resources.commit_every_units, resources.commit_every_s, fitted(real)
        )  # fmt: skip

    run = real if made == number else whole(options.workers)
    sweep = [(one, whole(one)) for one in SWEEP]
    driver_unit_s = run.driver_s / number
    prices = {name: getattr(options, name) for name in ("core_hour", "thousand_writes", "terabyte_month")}
    figures: dict[str, Any] = {
        "frames": estimate.frames, "units": number, "units_really_committed": made, "workers": options.workers,
        "plan_s": planned, **opened,
        "world": asdict(world), "wall_hours": run.wall_s / 3600,
        "utilisation": run.busy_s / (options.workers * run.wall_s), "lost_units": run.lost, "commits": run.commits,
        "commit_ms_per_unit": 1e3 * real.commit_s / made, "commits_per_s_at_most": real.commits / real.commit_s,
        "driver_ms_per_unit": 1e3 * driver_unit_s, "driver_busy": run.driver_s / run.wall_s,
        "driver_MiB": [round(real.memory[int(part * (len(real.memory) - 1))] / 2**20) for part in (0, 0.1, 0.5, 1)],
        "cost": cost(run, options.workers, estimate.stored_bytes, estimate.objects, prices),
        "saturates_at_workers": round(world.unit_s / driver_unit_s),
        "source_MB_per_s": estimate.source_bytes / run.wall_s / 1e6,
        "sweep": {n: {"hours": one.wall_s / 3600, "workers_busy": one.busy_s / (n * one.wall_s)} for n, one in sweep},
    }  # fmt: skip
    print(json.dumps(figures, indent=1, default=float))
    draw(real, run, sweep, world, options.output)


if __name__ == "__main__":
    sys.exit(main())
