"""What the engine adds: wall time of a build over the sum of its units' times divided by the cores.

python benchmarks/engine.py        (two CPUs, two minutes)
"""

from __future__ import annotations

import tempfile

from sdoml_dist.engine.cluster import connect
from sdoml_dist.engine.run import build
from sdoml_dist.recipe_file import parse_recipe

CPUS = 2


def main() -> None:
    """Build a day of two channels from simulated 512-pixel frames and compare times."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(
            {
                "name": "engine",
                "period": {"start": "2011-02-15", "end": "2011-02-16"},
                "cadence": "12min",
                "tolerance": "1min",
                "channels": ["171A", "304A"],
                "grid": {"pixels": 256},
                "source": {"kind": "simulator", "simulation": {"pixels": 512, "frame_cadence_s": 720}},
                "chunking": {"shard_slots": 12},
                "store": {"url": f"{folder}/dataset"},
            }  # fmt: skip
        )
        with connect(CPUS):
            summary = build(recipe)
    ideal = summary.busy_s / CPUS
    print(
        f"{summary.outcomes.total()} frames in {summary.seconds:.1f} s with {summary.actors} actors; units alone "
        f"{ideal:.1f} s: {summary.seconds / ideal:.2f} x"
    )


if __name__ == "__main__":
    main()
