"""The verb that applies far-side networks to frames of STEREO's EUVI."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdoml_dist.cli_arguments import wait_argument

if TYPE_CHECKING:
    from sdoml_dist.engine.far_side import FarSideSummary


def add_far_side(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``far-side``."""
    parser.add_argument("run", help="folder of a run of the far-side experiment, or of a checkpoint")
    parser.add_argument("frames", help="folder or address with FITS files of EUVI, level 0.5 or 1")
    parser.add_argument("output", help="folder for magnetograms as FITS files, sets.csv and frames.csv")
    parser.add_argument("--tolerance", default="20min", metavar="TIME", help="between the channels of one set")
    parser.add_argument("--matches", metavar="FILE", help="JSON file: curves of intensities by channel of AIA")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    wait_argument(parser)


def run_far_side(options: argparse.Namespace) -> int:
    """Run ``far-side`` and return its exit code: 3 if some sets or files could not be used."""
    from sdoml_dist.engine.far_side import far_side
    from sdoml_dist.store.reader import as_store

    done = far_side(
        options.run, options.frames, as_store(options.output), tolerance=options.tolerance, matches=options.matches,
        cpus=options.cpus, wait_s=options.wait,
    )  # fmt: skip
    for line in told(done):
        print(line)
    print(f"{done.made} magnetograms made and {done.resumed} there before in {options.output}, {done.seconds:.0f} s")
    return int(done.exit_code)


def told(done: FarSideSummary) -> list[str]:
    """Return what became of sets and files: a line for each status, with the first of its reasons."""
    from sdoml_dist.store.far_side_folder import FRAMES, SETS

    return [
        *_lines("sets", [(row.status, f"{row.name}: {row.reason}") for row in done.rows], SETS),
        *_lines("files not used", [(one.status, f"{one.path}: {one.detail}") for one in done.unused], FRAMES),
    ]


def _lines(what: str, found: Sequence[tuple[str, str]], table: str) -> list[str]:
    counts = Counter(status for status, _ in found)
    lines = []
    for status, number in counts.most_common():
        first = next(reason for one, reason in found if one == status)
        more = f" ({number - 1} more in {table})" if number > 1 else ""
        lines.append(f"{what}: {status} {number}" + ("" if status == "ok" else f": {first}{more}"))
    return lines
