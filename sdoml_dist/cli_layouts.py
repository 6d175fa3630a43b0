"""The verbs ``export`` and ``import``: to and from the layouts that SDOML was published in."""

from __future__ import annotations

import argparse
import json

from sdoml_dist.cli_arguments import store_options, wait_argument

_LAYOUTS = ("sdoml-v2", "sdoml-v1")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``export``."""
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("output", help="folder, s3:// or gs:// address; stores or tree are made below it")
    parser.add_argument("--layout", choices=_LAYOUTS, default="sdoml-v2", help="Zarr stores, or a tree of .npz files")
    parser.add_argument(
        "--format",
        choices=["zarr2", "npz"],
        help="format of the files: zarr2 for sdoml-v2, npz for sdoml-v1; the default",
    )
    parser.add_argument("--product", help="just this product; by default all that the dataset holds")
    parser.add_argument("--channels", nargs="+", metavar="CHANNEL", help="just these channels")
    parser.add_argument("--version", help="tag or snapshot id; by default the newest commit")
    parser.add_argument("--chunk-frames", type=int, default=120, metavar="N", help="images per chunk of sdoml-v2")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")
    parser.add_argument("--anonymous", action="store_true", help="read the dataset without credentials")


def run_export(options: argparse.Namespace) -> int:
    """Run ``export`` and return its exit code."""
    from sdoml_dist.errors import UsageError

    own = {"sdoml-v2": "zarr2", "sdoml-v1": "npz"}[options.layout]
    if options.format not in (None, own):
        raise UsageError(f"The layout {options.layout} is {own}, not {options.format}.", "", "Leave --format out.")
    from sdoml_dist.engine.export import export
    from sdoml_dist.report.text import human_bytes

    summary = export(
        options.dataset, options.output, layout=options.layout, product=options.product, version=options.version,
        channels=options.channels, chunk_frames=options.chunk_frames, cpus=options.cpus, **store_options(options),
    )  # fmt: skip
    for place in summary.places:
        print(place)
    print(
        f"{summary.frames} frames of version {summary.snapshot}: {summary.units} units written "
        f"({human_bytes(summary.written_bytes)}) in {summary.seconds:.0f} s, {summary.resumed_units} there before"
    )
    return int(summary.exit_code)


def add_import(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``import``."""
    parser.add_argument(
        "source", help="Zarr store or the folder it is in (sdoml-v2), or folder of the years (sdoml-v1)"
    )
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address of the dataset to make or to go on with")
    parser.add_argument("--layout", choices=_LAYOUTS, default="sdoml-v2", help="layout of the source")
    parser.add_argument("--product", default="aia", help="aia (default), hmi, eve, ...")
    parser.add_argument("--cadence", help="grid, e.g. 6min; by default the commonest step of the published times")
    parser.add_argument("--tolerance", help="largest distance of a frame from its slot; by default half the cadence")
    parser.add_argument("--name", help="name of the dataset")
    parser.add_argument(
        "--source-options",
        type=json.loads,
        metavar="JSON",
        help="""fsspec options of the source, e.g. '{"anon": true}'""",
    )
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument(
        "--retry", action="append", choices=["failed", "missing", "rejected"], help="do frames of this outcome again"
    )
    wait_argument(parser)
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_import(options: argparse.Namespace) -> int:
    """Run ``import`` and return its exit code."""
    from sdoml_dist.engine.importing import import_published
    from sdoml_dist.report.text import accounting_table, run_line
    from sdoml_dist.store.reader import as_store

    places = store_options(options)
    summary = import_published(
        options.source, options.dataset, layout=options.layout, product=options.product, cadence=options.cadence,
        tolerance=options.tolerance, name=options.name, storage_options=options.source_options,
        retry=tuple(options.retry or ()), cpus=options.cpus, wait_s=options.wait, **places,
    )  # fmt: skip
    print(accounting_table(as_store(options.dataset, **places)))
    print(run_line(summary))
    return int(summary.exit_code)
