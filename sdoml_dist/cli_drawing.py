"""The verb that makes images of the Sun from pictures of drawings."""

from __future__ import annotations

import argparse


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``drawing``."""
    parser.add_argument("run", help="folder of a run of the galileo experiment, or of a checkpoint")
    parser.add_argument("files", nargs="+", metavar="file", help="PNG or JPEG with the whole limb in it")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where FITS files go")
    parser.add_argument(
        "--time", required=True, action="append", metavar="T",
        help="when the Sun was drawn, Gregorian calendar, UTC; once for all files, or once for each",
    )  # fmt: skip
    parser.add_argument(
        "--north", required=True, action="append", type=float, metavar="DEG",
        help="solar north in the picture, degrees counter-clockwise from its upper side, before it is mirrored; "
        "with celestial north up this is the position angle P of the Sun's axis. Once for all files, or once for each",
    )  # fmt: skip
    parser.add_argument("--mirrored", action="store_true", help="east and west are interchanged, as in a projection")
    parser.add_argument(
        "--disc", nargs=3, type=float, metavar=("X", "Y", "RADIUS"),
        help="the limb, in pixels from the lower left; by default it is searched for in each picture",
    )  # fmt: skip


def run_drawing(options: argparse.Namespace) -> int:
    """Run ``drawing`` and return its exit code: 3 if some pictures could not be used."""
    from sdoml_dist.experiments.galileo_drawings import sheets, translate_drawings
    from sdoml_dist.solar.drawing import Circle

    disc = None if options.disc is None else Circle(*options.disc)
    given = sheets(options.files, options.time, options.north, mirrored=options.mirrored, disc=disc)
    done = translate_drawings(options.run, given, options.output)
    print(done.to_text(), end="")
    return int(done.exit_code)
