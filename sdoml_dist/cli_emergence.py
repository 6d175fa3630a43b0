"""The verb ``emergence``: tracked regions, their acoustic power and timelines."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from sdoml_dist.atomic import write_atomic
from sdoml_dist.cli_arguments import dataset_arguments, json_argument, run_arguments, store_options
from sdoml_dist.errors import ExitCode


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML file, or the name of a shipped recipe such as solared")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a key, e.g. power.step=12min")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    json_argument(parser)


def _plan(options: argparse.Namespace) -> int:
    from sdoml_dist.emergence_file import load_emergence_recipe
    from sdoml_dist.emergence_plan import EmergencePlan
    from sdoml_dist.report.emergence_text import plan_table

    plan = EmergencePlan(load_emergence_recipe(options.recipe, options.set))
    print(json.dumps(plan.summary(), indent=2) if options.json else plan_table(plan))
    return ExitCode.COMPLETE


def _add_build(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    run_arguments(parser)


def _build(options: argparse.Namespace) -> int:
    from sdoml_dist.emergence_file import load_emergence_recipe
    from sdoml_dist.engine.emergence import build_emergence
    from sdoml_dist.report.emergence_text import accounting_table, stage_lines

    recipe = load_emergence_recipe(options.recipe, options.set)
    summary = build_emergence(recipe, retry=tuple(options.retry or ()), cpus=options.cpus, wait_s=options.wait)
    print(accounting_table(recipe.store))
    print(stage_lines(summary))
    if summary.exit_code == ExitCode.FRAMES_FAILED:
        print("Some frames failed; what can be made without them is made. Try them again with --retry failed.")
    return summary.exit_code


def _add_status(parser: argparse.ArgumentParser) -> None:
    dataset_arguments(parser)


def _status(options: argparse.Namespace) -> int:
    from sdoml_dist.report.emergence_text import accounting_table

    print(accounting_table(options.dataset, options.version, **store_options(options)))
    return ExitCode.COMPLETE


def _add_regions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "summaries", nargs="+", help="NOAA's daily region summaries (SRS text files), or folders of them"
    )
    parser.add_argument("--harps", help="JSOC's table all_harps_with_noaa_ars.txt, to leave out regions in older HARPs")
    parser.add_argument("--longitude", type=float, default=30.0, metavar="DEG",
                        help="largest distance from the central meridian at emergence")  # fmt: skip
    parser.add_argument("--days-on-disc", type=int, default=4, metavar="N", help="smallest number of daily records")
    parser.add_argument(
        "--area",
        type=float,
        default=200.0,
        metavar="MSH",
        help="smallest of the largest areas, millionths of a hemisphere",
    )
    parser.add_argument("--days", type=float, default=247 / 24, metavar="DAYS",
                        help="how long a region is followed; 247 hours hold 240 windows of 8 hours")  # fmt: skip
    parser.add_argument("-o", "--output", default="regions.csv", help="table to write")


def _regions(options: argparse.Namespace) -> int:
    from sdoml_dist.emergence_file import read_summaries
    from sdoml_dist.solar.region_selection import select_regions
    from sdoml_dist.solar.region_summaries import read_harp_noaa
    from sdoml_dist.solar.region_tables import write_regions

    harps = read_harp_noaa(Path(options.harps).read_text(encoding="utf-8")) if options.harps else None
    found = select_regions(
        read_summaries(options.summaries), maximum_longitude_deg=options.longitude, minimum_days=options.days_on_disc,
        minimum_area_msh=options.area, days=options.days, harps=harps,
    )  # fmt: skip
    for number, reason in found.refused.items():
        print(f"AR{number}: {reason}")
    write_atomic(Path(options.output), write_regions(found.regions, found.areas).encode())
    print(f"{len(found.regions)} regions of {len(found.regions) + len(found.refused)} in {options.output}")
    return ExitCode.COMPLETE


def _add_export(parser: argparse.ArgumentParser) -> None:
    dataset_arguments(parser)
    parser.add_argument("output", help="folder to write to")
    parser.add_argument("--format", choices=["npz", "hdf5"], default="npz",
                        help="npz: a folder of arrays per region, as published; hdf5: windows of the benchmark")  # fmt: skip
    parser.add_argument("--folds", type=int, help="for hdf5: so many folds by region instead of the benchmark's split")
    parser.add_argument("--seed", type=int, default=0, help="for --folds: another seed gives other folds")


def _export(options: argparse.Namespace) -> int:
    from sdoml_dist.store.emergence_export import export_timelines
    from sdoml_dist.store.emergence_reader import Emergence

    dataset = Emergence(options.dataset, options.version, **store_options(options))
    for line in export_timelines(dataset.timelines(), options.output, options.format, options.folds, options.seed):
        print(line)
    return ExitCode.COMPLETE


def _add_quicklook(parser: argparse.ArgumentParser) -> None:
    dataset_arguments(parser)
    parser.add_argument("--number", type=int, help="number of the region; by default the first")
    parser.add_argument("--time", help="UTC; by default the middle of the region's time")
    parser.add_argument(
        "-o", "--output", default="emergence.png", help="PNG to write; timelines get a name of their own"
    )


def _quicklook(options: argparse.Namespace) -> int:
    from sdoml_dist.report.emergence_view import quicklook
    from sdoml_dist.store.emergence_reader import Emergence

    dataset = Emergence(options.dataset, options.version, **store_options(options))
    for path in quicklook(dataset, Path(options.output), options.number, options.time):
        print(path)
    return ExitCode.COMPLETE


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str]] = {
    "plan": (_plan, _add_plan, "show what a recipe would do; writes nothing"),
    "build": (_build, _add_build, "track, compute powers and timelines, or go on where a run stopped"),
    "status": (_status, _add_status, "count tracked frames by region and outcome"),
    "regions": (_regions, _add_regions, "select emerging regions from NOAA's daily summaries"),
    "export": (_export, _add_export, "write timelines as published"),
    "quicklook": (_quicklook, _add_quicklook, "draw maps and timelines of a region"),
}


def add_emergence(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``emergence``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))
    for name, (command, add, summary) in _ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add(action)
        action.set_defaults(action_command=command)


def run_emergence(options: argparse.Namespace) -> int:
    """Run ``emergence`` and return its exit code."""
    code: int = options.action_command(options)
    return code
