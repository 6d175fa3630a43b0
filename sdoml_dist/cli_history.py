"""The verb ``history``: what the workers of a run did."""

from __future__ import annotations

import argparse
import json

from sdoml_dist.cli_arguments import dataset_arguments, json_argument, store_options
from sdoml_dist.errors import ExitCode


def run_history(options: argparse.Namespace) -> int:
    """Run ``history`` and return its exit code."""
    from sdoml_dist.report.history import read_history
    from sdoml_dist.store.reader import as_store

    history = read_history(as_store(options.dataset, **store_options(options)), options.run)
    print(json.dumps(history.summary(), indent=2) if options.json else history.text())
    if options.output is not None:
        from sdoml_dist.report.timeline import draw_history

        draw_history(history, options.output)
    return ExitCode.COMPLETE


def add_history(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``history``."""
    dataset_arguments(parser, version=False)
    parser.add_argument("--run", metavar="ID", help="which run, or how its id begins; by default the latest")
    parser.add_argument("-o", "--output", metavar="PNG", help="draw the timeline of units and workers")
    json_argument(parser)
