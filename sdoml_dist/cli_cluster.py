"""The verb that sends others to a cluster."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

from sdoml_dist.errors import UsageError
from sdoml_dist.redact import redact_setting


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``submit``."""
    parser.add_argument("--address", help="dashboard of the cluster, e.g. http://HEAD:8265; by default RAY_API_SERVER_ADDRESS")
    parser.add_argument("--working-dir", default=".", metavar="FOLDER", help="folder to send along; by default this one")
    parser.add_argument("--limit", default="50MB", metavar="SIZE", help="largest folder that is sent")
    parser.add_argument("--env", action="append", metavar="NAME=VALUE", help="a variable of the job; no secrets, Ray shows it")
    parser.add_argument("--python", default="python", help="Python on the cluster")
    parser.add_argument("--no-wait", action="store_true", help="do not follow the job")
    parser.add_argument("--attach", action="store_true", help="if the job is under way, follow it instead of refusing")
    parser.add_argument("arguments", nargs="*", metavar="-- VERB ...", help="a verb of sdoml and its arguments")


def run_submit(options: argparse.Namespace) -> int:
    """Run ``submit`` and return the exit code of the job."""
    from sdoml_dist.engine.submit import submit
    from sdoml_dist.recipe_base import parse_size

    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise UsageError("No cluster is named.", "", "sdoml submit --address http://HEAD:8265 -- build sdoml-v2")
    try:
        limit = parse_size(options.limit)
    except ValueError as error:
        raise UsageError(f"--limit: {error}") from None
    variables = {}
    for text in options.env or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--env {redact_setting(text)}: a variable is given as NAME=VALUE.")
        variables[name] = value
    return submit(
        address, options.arguments, working_folder=options.working_dir, environment=variables, limit_bytes=limit,
        wait=not options.no_wait, attach=options.attach, python=options.python,
    )  # fmt: skip


def unknown_arguments(options: argparse.Namespace, left: Sequence[str]) -> str:
    """Return what to say of arguments that a verb does not know; those of a verb that is submitted belong after ``--``."""
    text = f"unrecognized arguments: {' '.join(left)}"
    if options.verb == "submit" and options.arguments:
        text += f"\nWhat is the verb's comes after '--': sdoml submit ... -- {shlex.join([*options.arguments, *left])}"
    return text
