"""The verb that applies far-side networks to frames of STEREO's EUVI."""

from __future__ import annotations

import argparse

from sdoml_dist.errors import ExitCode


def add_far_side(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``far-side``."""
    parser.add_argument("run", help="folder of a run of the far-side experiment, or of a checkpoint")
    parser.add_argument("frames", help="folder or address with FITS files of EUVI, level 0.5 or 1")
    parser.add_argument("output", help="folder for magnetograms as FITS files")
    parser.add_argument("--tolerance", default="20min", metavar="TIME", help="between the channels of one set")
    parser.add_argument("--matches", metavar="FILE", help="JSON file: curves of intensities by channel of AIA")


def run_far_side(options: argparse.Namespace) -> int:
    """Run ``far-side`` and return its exit code: 3 if some files could not be used."""
    from sdoml_dist.experiments.far_side_euvi import apply_to_folder

    written, problems = apply_to_folder(
        options.run, options.frames, options.output, tolerance=options.tolerance, matches=options.matches
    )
    for path, why in problems.items():
        print(f"not used: {path}: {why}")
    print(f"{len(written)} magnetograms in {options.output}")
    return int(ExitCode.FRAMES_FAILED if problems else ExitCode.COMPLETE)
