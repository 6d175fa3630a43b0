"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import os
from typing import Any


def store_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the store that were given."""
    return {
        name: value
        for name in ("endpoint_url", "region", "anonymous")
        if (value := getattr(options, name, None)) not in (None, False)
    }


def recipe_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Declare a recipe and changes of it."""
    parser.add_argument("recipe", nargs="?" if optional else None, help="YAML file, or the name of a shipped recipe")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a key, e.g. grid.pixels=256")
    parser.add_argument("--product", metavar="NAME", help="just this product; by default all that the file holds")


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how a run goes."""
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument(
        "--retry", action="append", choices=["failed", "missing", "rejected"], help="do frames of this outcome again"
    )
    wait_argument(parser)


def wait_argument(parser: argparse.ArgumentParser) -> None:
    """Declare how long to wait for another driver."""
    parser.add_argument(
        "--wait", type=float, default=os.environ.get("SDOML_WAIT") or "0", metavar="S",
        help="wait this long for another driver; by default SDOML_WAIT, or not at all",
    )  # fmt: skip


def dataset_arguments(parser: argparse.ArgumentParser, version: bool = True) -> None:
    """Declare a dataset and where it is."""
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")
    parser.add_argument("--anonymous", action="store_true", help="read without credentials")
    if version:
        parser.add_argument("--version", help="tag or snapshot id; by default the newest commit")


def json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare output for programs."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
