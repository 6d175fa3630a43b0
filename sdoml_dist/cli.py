"""The command line: verbs to functions, errors to exit codes. No logic here."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sdoml_dist import __version__
from sdoml_dist.cli_layouts import add_export, add_import, run_export, run_import
from sdoml_dist.errors import ExitCode, SdomlError

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest verb and exits with our code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice:" in message:
            given = message.split("invalid choice: '")[1].split("'")[0]
            near = difflib.get_close_matches(given, list(VERBS), 1, 0.4)
            message = f"there is no verb {given!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        self.exit(int(ExitCode.USAGE), f"sdoml: {message}\nTry 'sdoml --help'.\n")


def _plan(options: argparse.Namespace) -> int:
    from sdoml_dist.plan import REFERENCE, Plan
    from sdoml_dist.recipe_file import load_recipes
    from sdoml_dist.report.plan_text import machines_of, mission_data, mission_table
    from sdoml_dist.speed import load

    plans = [Plan(recipe) for recipe in load_recipes(options.recipe, options.set, options.product)]
    if options.resolved:
        recipes = [plan.recipe.model_dump(mode="json") for plan in plans]
        print(json.dumps(recipes[0] if len(recipes) == 1 else recipes, indent=2))
        return ExitCode.COMPLETE
    speed = load() or REFERENCE
    machines = machines_of(options.nodes, options.cpus_per_node, options.memory_per_node, options.source_rate)
    if options.json:
        print(json.dumps(mission_data(plans, speed, machines), indent=2))
    else:
        print(mission_table(plans, speed, machines))
    return ExitCode.COMPLETE


def _build(options: argparse.Namespace) -> int:
    from sdoml_dist.recipe_file import load_recipes

    recipes = load_recipes(options.recipe, options.set, options.product)
    return max(_run(options, recipe, "build") for recipe in recipes)


def _update(options: argparse.Namespace) -> int:
    from sdoml_dist.report.text import parse_end
    from sdoml_dist.store.reader import as_store, open_products
    from sdoml_dist.store.repository import BRANCH, create_tag, dated_tag, open_repository

    store = as_store(options.dataset, **_store_options(options))
    before = open_repository(store).lookup_branch(BRANCH)
    codes = []
    for opened in open_products(store, product=options.product):
        recipe = opened.recipe.model_copy(update={"store": store})
        end = parse_end(options.to, recipe.cadence) if options.to else recipe.period.end
        codes.append(_run(options, recipe.extended(end=end), "update", extend=True, refresh=True))
    repository = open_repository(store)
    after = repository.lookup_branch(BRANCH)
    if after == before:
        print("nothing has changed")
    elif not options.no_tag:
        name = options.tag or dated_tag(repository)
        create_tag(repository, name, after)
        print(f"version {name}")
    return max(codes)


def _run(options: argparse.Namespace, recipe: Any, verb: str, extend: bool = False, refresh: bool = False) -> int:
    from sdoml_dist.engine.run import build
    from sdoml_dist.report.text import accounting_table, run_line

    summary = build(
        recipe, verb=verb, extend=extend, retry=tuple(options.retry or ()), refresh=refresh, cpus=options.cpus,
        wait_s=options.wait,
    )  # fmt: skip
    print(accounting_table(recipe.store, product=recipe.product))
    print(run_line(summary))
    if summary.exit_code == ExitCode.FRAMES_FAILED:
        print(
            "Some frames failed; every other frame is in the dataset. See them with\n"
            f"  sdoml status {recipe.store.url} --failed\nand try them again with --retry failed."
        )
    return summary.exit_code


def _status(options: argparse.Namespace) -> int:
    from sdoml_dist.report.text import status_report

    text, code = status_report(options.dataset, failed=options.failed, as_json=options.json, **_store_options(options))
    print(text)
    return code


def _inspect(options: argparse.Namespace) -> int:
    from sdoml_dist.report.text import inspect_report

    print(inspect_report(options.dataset, options.version, as_json=options.json, **_store_options(options)))
    return ExitCode.COMPLETE


def _validate(options: argparse.Namespace) -> int:
    from sdoml_dist.report.validate import validate

    result = validate(options.dataset, options.version, sample=options.sample, **_store_options(options))
    print(json.dumps(result.as_data(), indent=2) if options.json else result.text())
    return ExitCode.COMPLETE if result.valid else ExitCode.INVALID


def _quicklook(options: argparse.Namespace) -> int:
    from sdoml_dist.report.quicklook import quicklook

    path = quicklook(
        options.dataset, options.output, time=options.time, version=options.version, **_store_options(options)
    )
    print(path)
    return ExitCode.COMPLETE


def _schema(options: argparse.Namespace) -> int:
    from sdoml_dist.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))
    return ExitCode.COMPLETE


def _prefetch(options: argparse.Namespace) -> int:
    from sdoml_dist.pipelines.prefetch import prefetch
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        for line in prefetch(recipe, tables_only=options.tables_only):
            print(line)
    return ExitCode.COMPLETE


def _doctor(options: argparse.Namespace) -> int:
    from sdoml_dist.engine.doctor import doctor
    from sdoml_dist.recipe_file import load_recipes

    if options.measure:
        from sdoml_dist.speed import measure, save

        speed = measure()
        for kind, rate in speed.rates().items():
            print(f"{rate:8.1f}  {kind}")
        print(f"one core of {speed.cpu}; kept in {save(speed)} for 'sdoml plan'")
    recipes = load_recipes(options.recipe, options.set, options.product) if options.recipe else []
    all_healthy = True
    for index, recipe in enumerate(recipes or [None]):
        text, healthy = doctor(recipe, ray=not options.no_ray and index == 0)
        print(f"{recipe.product}:\n{text}" if recipe is not None and len(recipes) > 1 else text)
        all_healthy &= healthy
    return ExitCode.COMPLETE if all_healthy else ExitCode.ENVIRONMENT


def _simulate(options: argparse.Namespace) -> int:
    from sdoml_dist.engine.simulate import simulate
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        print(simulate(recipe, options.output, cpus=options.cpus))
    return ExitCode.COMPLETE


def _demo(options: argparse.Namespace) -> int:
    from sdoml_dist.engine.demo import demo

    return demo(options.output, cpus=options.cpus)


def _tag(options: argparse.Namespace) -> int:
    from sdoml_dist.store.reader import as_store
    from sdoml_dist.store.repository import create_tag, open_repository, session_at

    repository = open_repository(as_store(options.dataset, **_store_options(options)))
    snapshot = create_tag(repository, options.name, session_at(repository, options.version).snapshot_id)
    print(f"{options.name} = {snapshot}")
    return ExitCode.COMPLETE


def _versions(options: argparse.Namespace) -> int:
    from sdoml_dist.report.text import versions_report

    print(versions_report(options.dataset, as_json=options.json, **_store_options(options)))
    return ExitCode.COMPLETE


def _diff(options: argparse.Namespace) -> int:
    from sdoml_dist.store.diff import compare, text

    found = compare(options.dataset, options.old, options.new, **_store_options(options))
    print(json.dumps([one.as_data() for one in found], indent=2) if options.json else text(found))
    return ExitCode.COMPLETE


def _report(options: argparse.Namespace) -> int:
    from sdoml_dist.report.page import write_report

    print(write_report(options.dataset, options.output, options.version, **_store_options(options)))
    return ExitCode.COMPLETE


def _reprocess(options: argparse.Namespace) -> int:
    from sdoml_dist.engine.reprocess import drop, reprocess
    from sdoml_dist.report.text import run_line
    from sdoml_dist.store.reader import as_store

    store = as_store(options.dataset, **_store_options(options))
    if options.drop:
        drop(store, options.product)
        return ExitCode.COMPLETE
    done = reprocess(
        store, options.product, options.set or [], start=options.start, end=options.end, cpus=options.cpus,
        wait_s=options.wait,
    )  # fmt: skip
    print(run_line(done.summary))
    print(
        f"merged: {done.merged}" if done.merged else f"not complete; it goes on with the same command ({done.branch})"
    )
    return done.summary.exit_code


def _expire(options: argparse.Namespace) -> int:
    from sdoml_dist.report.text import human_bytes
    from sdoml_dist.store.expire import expire
    from sdoml_dist.store.reader import as_store

    gone = expire(as_store(options.dataset, **_store_options(options)), options.older_than, wait_s=options.wait)
    print(f"{gone.snapshots} snapshots and {gone.objects} objects removed, {human_bytes(gone.bytes)} freed; tags stay")
    return ExitCode.COMPLETE


def _store_options(options: argparse.Namespace) -> dict[str, Any]:
    return {
        name: value
        for name in ("endpoint_url", "region", "anonymous")
        if (value := getattr(options, name, None)) not in (None, False)
    }


def _recipe_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument("recipe", nargs="?" if optional else None, help="YAML file, or the name of a shipped recipe")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a key, e.g. grid.pixels=256")
    parser.add_argument("--product", metavar="NAME", help="just this product; by default all that the file holds")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument(
        "--retry", action="append", choices=["failed", "missing", "rejected"], help="do frames of this outcome again"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait this long for another driver")


def _dataset_arguments(parser: argparse.ArgumentParser, version: bool = True) -> None:
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")
    parser.add_argument("--anonymous", action="store_true", help="read without credentials")
    if version:
        parser.add_argument("--version", help="tag or snapshot id; by default the newest commit")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    _json_argument(parser)
    parser.add_argument("--resolved", action="store_true", help="print the recipe with every default")
    parser.add_argument("--nodes", type=int, help="say the time on a cluster of this many nodes")
    parser.add_argument("--cpus-per-node", type=float, metavar="C", help="CPUs of each node")
    parser.add_argument("--memory-per-node", metavar="SIZE", help="memory of each node, e.g. 64GB")
    parser.add_argument("--source-rate", metavar="SIZE", help="what the source delivers per second, e.g. 100MB")


def _add_build(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    _run_arguments(parser)


def _add_update(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    parser.add_argument("--to", help="new end of the period (UTC), or 'now'")
    parser.add_argument("--product", help="just this product; by default all that the dataset holds")
    parser.add_argument("--tag", metavar="NAME", help="name of the new version; by default the date")
    parser.add_argument("--no-tag", action="store_true", help="do not name the new version")
    _run_arguments(parser)


def _add_status(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    parser.add_argument("--failed", action="store_true", help="list the failed frames with their reasons")
    _json_argument(parser)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser)
    _json_argument(parser)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser)
    parser.add_argument("--sample", type=int, default=200, help="frames per channel whose pixels are read (0: all)")
    _json_argument(parser)


def _add_quicklook(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser)
    parser.add_argument("--time", help="UTC; by default the slot with most channels")
    parser.add_argument("-o", "--output", default="quicklook.png", help="PNG to write")


def _add_prefetch(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("--tables-only", action="store_true", help="only calibration tables, no frames")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser, optional=True)
    parser.add_argument("--no-ray", action="store_true", help="do not start Ray")
    parser.add_argument("--measure", action="store_true", help="measure the speed of this machine, for 'sdoml plan'")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("-o", "--output", required=True, help="folder for the FITS files")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default="sdoml-demo", help="folder to work in")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray")


def _add_tag(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser)
    parser.add_argument("name", help="name of the version")


def _add_diff(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    parser.add_argument("old", help="tag, branch or snapshot id")
    parser.add_argument("new", nargs="?", help="the same; by default the newest commit")
    _json_argument(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser)
    parser.add_argument("-o", "--output", default="report.html", help="page to write")


def _add_reprocess(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    parser.add_argument("--product", default="aia", help="which product; by default aia")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="what changes")
    parser.add_argument("--from", dest="start", help="start of the stretch to reprocess (UTC); by default all")
    parser.add_argument("--to", dest="end", help="end of the stretch, exclusive (UTC)")
    parser.add_argument("--drop", action="store_true", help="give the reprocessing up")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait this long for another driver")


def _add_expire(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    parser.add_argument(
        "--older-than", type=float, default=30.0, metavar="DAYS", help="age from which untagged versions go"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait this long for another driver")


def _add_versions(parser: argparse.ArgumentParser) -> None:
    _dataset_arguments(parser, version=False)
    _json_argument(parser)


VERBS: dict[str, tuple[Command, Callable[[argparse.ArgumentParser], None], str, str]] = {
    "demo": (_demo, _add_demo, "simulate a stretch of the mission and build it: the whole way in two minutes",
             "sdoml demo"),
    "plan": (_plan, _add_plan, "show what a recipe would do; writes nothing", "sdoml plan sdoml-v2 --json"),
    "prefetch": (_prefetch, _add_prefetch, "fetch calibration tables and frames where there is a network",
                 "sdoml prefetch aia-level1 --tables-only"),
    "build": (_build, _add_build, "build a dataset, or go on where a run stopped",
              "sdoml build sdoml-v2 --set store.url=/data/sdoml-v2"),
    "update": (_update, _add_update, "add new and changed frames, and name the new version",
               "sdoml update /data/sdoml-v2 --to now"),
    "status": (_status, _add_status, "count frames by outcome, and show the latest run",
               "sdoml status sdoml-demo/dataset --failed"),
    "inspect": (_inspect, _add_inspect, "describe a dataset, finished or not", "sdoml inspect sdoml-demo/dataset"),
    "validate": (_validate, _add_validate, "check a dataset against its own laws", "sdoml validate sdoml-demo/dataset"),
    "quicklook": (_quicklook, _add_quicklook, "draw all channels of one time",
                  "sdoml quicklook sdoml-demo/dataset -o sun.png"),
    "diff": (_diff, _add_diff, "say what changed between two versions", "sdoml diff /data/sdoml-v2 v1 v2"),
    "report": (_report, _add_report, "write a page about a dataset", "sdoml report sdoml-demo/dataset -o report.html"),
    "reprocess": (_reprocess, _add_reprocess, "make frames again with another calibration, on a branch",
                  "sdoml reprocess /data/sdoml-v2 --set calibration.degradation.url=new_table.txt"),
    "export": (run_export, add_export, "write one of SDOML's published layouts",
               "sdoml export /data/sdoml-v2 /data/published --layout sdoml-v2"),
    "import": (run_import, add_import, "bring a dataset in a published layout into one of ours",
               "sdoml import /data/published/sdomlv2.zarr /data/imported"),
    "expire": (_expire, _add_expire, "remove old versions that no tag holds", "sdoml expire /data/sdoml-v2 --older-than 90"),
    "tag": (_tag, _add_tag, "name a version, for ever", "sdoml tag sdoml-demo/dataset v1"),
    "versions": (_versions, _add_versions, "list tags and commits", "sdoml versions sdoml-demo/dataset"),
    "schema": (_schema, lambda parser: None, "print the JSON schema of recipes", "sdoml schema > recipe.schema.json"),
    "simulate": (_simulate, _add_simulate, "write simulated level-1 FITS files",
                 "sdoml simulate demo -o /data/simulated"),
    "doctor": (_doctor, _add_doctor, "check this machine and, given a recipe, its source and store", "sdoml doctor"),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    main_parser = _Parser(
        prog="sdoml",
        description="Machine-learning data from NASA's Solar Dynamics Observatory, distributed on Ray.",
        epilog="Exit codes: 0 complete, 1 bug, 2 wrong recipe or usage, 3 some frames failed, 4 invalid dataset, "
        "5 environment, 75 stopped and safe to repeat.",
    )
    main_parser.add_argument("--version", action="version", version=f"sdoml {__version__}")
    main_parser.add_argument("-v", "--verbose", action="store_true", help="more messages on standard error")
    verbs = main_parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name, (command, add, summary, example) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
                                epilog=f"Example:  {example}")  # fmt: skip
        add(verb)
        verb.set_defaults(command=command)
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code."""
    options = parser().parse_args(arguments)
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)sZ %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    logging.getLogger("sdoml").setLevel(logging.INFO)
    if options.verbose:
        logging.getLogger("sdoml_dist").setLevel(logging.DEBUG)
    try:
        return int(options.command(options))
    except SdomlError as error:
        print(f"sdoml: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("sdoml: interrupted; everything committed is safe, the same command goes on.", file=sys.stderr)
        return int(ExitCode.STOPPED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.COMPLETE)


if __name__ == "__main__":
    sys.exit(main())
