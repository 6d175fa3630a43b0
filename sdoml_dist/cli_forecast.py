"""The verb that forecasts emerging regions."""

from __future__ import annotations

import argparse

from sdoml_dist.cli_arguments import store_options


def add_forecast(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``forecast``."""
    parser.add_argument("run", help="folder of a run, whose best checkpoint by validation is taken, or of a checkpoint")
    parser.add_argument("timelines", help="folder or HDF5 file of timelines, or an emergence dataset")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where files go")
    parser.add_argument(
        "--time-scale", choices=["tai", "utc"], default="tai", help="of the times in files; published: tai"
    )
    parser.add_argument("--version", help="tag or snapshot of the dataset; by default the newest")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_forecast(options: argparse.Namespace) -> int:
    """Run ``forecast`` and return its exit code."""
    from sdoml_dist.experiments.emergence_apply import forecast_regions
    from sdoml_dist.store.reader import as_store

    places = store_options(options)
    timelines = as_store(options.timelines, **places) if places else options.timelines
    found = forecast_regions(options.run, timelines, options.output, version=options.version, scale=options.time_scale)
    print(found.to_text(), end="")
    return int(found.exit_code)
