"""The verbs about datasets of AIA, HMI and EVE: arguments, and what is called for them. No logic here."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sdoml_dist.cli_arguments import (
    dataset_arguments,
    json_argument,
    recipe_arguments,
    run_arguments,
    store_options,
    wait_argument,
)
from sdoml_dist.errors import ExitCode


def run_plan(options: argparse.Namespace) -> int:
    """Run ``plan`` and return its exit code."""
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


def run_build(options: argparse.Namespace) -> int:
    """Run ``build`` and return its exit code."""
    from sdoml_dist.recipe_file import load_recipes

    recipes = load_recipes(options.recipe, options.set, options.product)
    return max(_build_one(options, recipe, "build") for recipe in recipes)


def run_update(options: argparse.Namespace) -> int:
    """Run ``update`` and return its exit code."""
    from sdoml_dist.report.text import parse_end
    from sdoml_dist.store.reader import as_store, open_products
    from sdoml_dist.store.repository import BRANCH, create_tag, dated_tag, open_repository

    store = as_store(options.dataset, **store_options(options))
    before = open_repository(store).lookup_branch(BRANCH)
    codes = []
    for opened in open_products(store, product=options.product):
        recipe = opened.recipe.model_copy(update={"store": store})
        end = parse_end(options.to, recipe.cadence) if options.to else recipe.period.end
        codes.append(_build_one(options, recipe.extended(end=end), "update", extend=True, refresh=True))
    repository = open_repository(store)
    after = repository.lookup_branch(BRANCH)
    if after == before:
        print("nothing has changed")
    # An update before this one may have been broken off between its last commit and the name of the version.
    if not options.no_tag and after not in map(repository.lookup_tag, repository.list_tags()):
        name = options.tag or dated_tag(repository)
        create_tag(repository, name, after)
        print(f"version {name}")
    return max(codes)


def _build_one(options: argparse.Namespace, recipe: Any, verb: str, extend: bool = False, refresh: bool = False) -> int:
    from sdoml_dist.engine.run import build
    from sdoml_dist.parts import parse_part
    from sdoml_dist.report.text import accounting_table, run_line

    part = getattr(options, "part", None)
    summary = build(
        recipe, verb=verb, extend=extend, retry=tuple(options.retry or ()), refresh=refresh, cpus=options.cpus,
        wait_s=options.wait, part=parse_part(part) if part else None,
    )  # fmt: skip
    print(accounting_table(recipe.store, product=recipe.product))
    print(run_line(summary))
    if summary.exit_code == ExitCode.FRAMES_FAILED:
        print(
            "Some frames failed; every other frame is in the dataset. See them with\n"
            f"  sdoml status {recipe.store.url} --failed\nand try them again with --retry failed."
        )
    return summary.exit_code


def run_status(options: argparse.Namespace) -> int:
    """Run ``status`` and return its exit code."""
    from sdoml_dist.report.text import status_report

    if options.array_expression is not None:
        from sdoml_dist.parts import array_expression
        from sdoml_dist.report.parts_left import parts_left
        from sdoml_dist.store.reader import as_store

        print(array_expression(parts_left(as_store(options.dataset, **store_options(options)), options.array_expression)))
        return ExitCode.COMPLETE
    text, code = status_report(options.dataset, failed=options.failed, as_json=options.json, **store_options(options))
    print(text)
    return code


def run_inspect(options: argparse.Namespace) -> int:
    """Run ``inspect`` and return its exit code."""
    from sdoml_dist.report.text import inspect_report

    print(inspect_report(options.dataset, options.version, as_json=options.json, **store_options(options)))
    return ExitCode.COMPLETE


def run_validate(options: argparse.Namespace) -> int:
    """Run ``validate`` and return its exit code."""
    from sdoml_dist.report.validate import validate

    result = validate(options.dataset, options.version, sample=options.sample, **store_options(options))
    print(json.dumps(result.as_data(), indent=2) if options.json else result.text())
    return ExitCode.COMPLETE if result.valid else ExitCode.INVALID


def run_quicklook(options: argparse.Namespace) -> int:
    """Run ``quicklook`` and return its exit code."""
    from sdoml_dist.report.quicklook import quicklook

    path = quicklook(
        options.dataset, options.output, time=options.time, version=options.version, **store_options(options)
    )
    print(path)
    return ExitCode.COMPLETE


def run_prefetch(options: argparse.Namespace) -> int:
    """Run ``prefetch`` and return its exit code."""
    from sdoml_dist.pipelines.prefetch import prefetch
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        for line in prefetch(recipe, tables_only=options.tables_only):
            print(line)
    return ExitCode.COMPLETE


def run_doctor(options: argparse.Namespace) -> int:
    """Run ``doctor`` and return its exit code."""
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


def run_simulate(options: argparse.Namespace) -> int:
    """Run ``simulate`` and return its exit code."""
    from sdoml_dist.engine.simulate import simulate
    from sdoml_dist.recipe_file import load_recipes

    for recipe in load_recipes(options.recipe, options.set, options.product):
        print(simulate(recipe, options.output, cpus=options.cpus))
    return ExitCode.COMPLETE


def run_demo(options: argparse.Namespace) -> int:
    """Run ``demo`` and return its exit code."""
    from sdoml_dist.engine.demo import demo

    return demo(options.output, cpus=options.cpus)


def run_tag(options: argparse.Namespace) -> int:
    """Run ``tag`` and return its exit code."""
    from sdoml_dist.store.reader import as_store
    from sdoml_dist.store.repository import create_tag, open_repository, session_at

    repository = open_repository(as_store(options.dataset, **store_options(options)))
    snapshot = create_tag(repository, options.name, session_at(repository, options.version).snapshot_id)
    print(f"{options.name} = {snapshot}")
    return ExitCode.COMPLETE


def run_versions(options: argparse.Namespace) -> int:
    """Run ``versions`` and return its exit code."""
    from sdoml_dist.report.text import versions_report

    print(versions_report(options.dataset, as_json=options.json, **store_options(options)))
    return ExitCode.COMPLETE


def run_diff(options: argparse.Namespace) -> int:
    """Run ``diff`` and return its exit code."""
    from sdoml_dist.store.diff import compare, text

    found = compare(options.dataset, options.old, options.new, **store_options(options))
    print(json.dumps([one.as_data() for one in found], indent=2) if options.json else text(found))
    return ExitCode.COMPLETE


def run_report(options: argparse.Namespace) -> int:
    """Run ``report`` and return its exit code."""
    from sdoml_dist.report.emergence_view import write_emergence_report
    from sdoml_dist.report.page import write_report
    from sdoml_dist.store.emergence_template import GROUP
    from sdoml_dist.store.reader import as_store
    from sdoml_dist.store.repository import read_root

    places = store_options(options)
    regions = GROUP in read_root(as_store(options.dataset, **places), options.version)
    write = write_emergence_report if regions else write_report
    print(write(options.dataset, options.output, options.version, **places))
    return ExitCode.COMPLETE


def run_reprocess(options: argparse.Namespace) -> int:
    """Run ``reprocess`` and return its exit code."""
    from sdoml_dist.engine.reprocess import drop, reprocess
    from sdoml_dist.report.text import run_line
    from sdoml_dist.store.reader import as_store

    store = as_store(options.dataset, **store_options(options))
    if options.drop:
        drop(store, options.product, options.wait)
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


def run_expire(options: argparse.Namespace) -> int:
    """Run ``expire`` and return its exit code."""
    from sdoml_dist.report.text import human_bytes
    from sdoml_dist.store.expire import expire
    from sdoml_dist.store.reader import as_store

    gone = expire(as_store(options.dataset, **store_options(options)), options.older_than, wait_s=options.wait)
    print(f"{gone.snapshots} snapshots and {gone.objects} objects removed, {human_bytes(gone.bytes)} freed; tags stay")
    return ExitCode.COMPLETE


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``plan``."""
    recipe_arguments(parser)
    json_argument(parser)
    parser.add_argument("--resolved", action="store_true", help="print the recipe with every default")
    parser.add_argument("--nodes", type=int, help="say the time on a cluster of this many nodes")
    parser.add_argument("--cpus-per-node", type=float, metavar="C", help="CPUs of each node")
    parser.add_argument("--memory-per-node", metavar="SIZE", help="memory of each node, e.g. 64GB")
    parser.add_argument("--source-rate", metavar="SIZE", help="what the source delivers per second, e.g. 100MB")


def add_build(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``build``."""
    recipe_arguments(parser)
    run_arguments(parser)
    parser.add_argument("--part", metavar="K/N", help="do just this part of the plan; others may run at the same time")


def add_update(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``update``."""
    dataset_arguments(parser, version=False)
    parser.add_argument("--to", help="new end of the period (UTC), or 'now'")
    parser.add_argument("--product", help="just this product; by default all that the dataset holds")
    parser.add_argument("--tag", metavar="NAME", help="name of the new version; by default the date")
    parser.add_argument("--no-tag", action="store_true", help="do not name the new version")
    run_arguments(parser)


def add_status(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``status``."""
    dataset_arguments(parser, version=False)
    parser.add_argument("--failed", action="store_true", help="list the failed frames with their reasons")
    parser.add_argument(
        "--array-expression", type=int, metavar="N",
        help="print which of N parts have pending or failed frames, as sbatch --array takes them",
    )  # fmt: skip
    json_argument(parser)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``inspect``."""
    dataset_arguments(parser)
    json_argument(parser)


def add_validate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``validate``."""
    dataset_arguments(parser)
    parser.add_argument("--sample", type=int, default=200, help="frames per channel whose pixels are read (0: all)")
    json_argument(parser)


def add_quicklook(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``quicklook``."""
    dataset_arguments(parser)
    parser.add_argument("--time", help="UTC; by default the slot with most channels")
    parser.add_argument("-o", "--output", default="quicklook.png", help="PNG to write")


def add_prefetch(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``prefetch``."""
    recipe_arguments(parser)
    parser.add_argument("--tables-only", action="store_true", help="only calibration tables, no frames")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``doctor``."""
    recipe_arguments(parser, optional=True)
    parser.add_argument("--no-ray", action="store_true", help="do not start Ray")
    parser.add_argument("--measure", action="store_true", help="measure the speed of this machine, for 'sdoml plan'")


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``simulate``."""
    recipe_arguments(parser)
    parser.add_argument("-o", "--output", required=True, help="folder for the FITS files")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray")


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``demo``."""
    parser.add_argument("-o", "--output", default="sdoml-demo", help="folder to work in")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray")


def add_tag(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``tag``."""
    dataset_arguments(parser)
    parser.add_argument("name", help="name of the version")


def add_diff(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``diff``."""
    dataset_arguments(parser, version=False)
    parser.add_argument("old", help="tag, branch or snapshot id")
    parser.add_argument("new", nargs="?", help="the same; by default the newest commit")
    json_argument(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``report``."""
    dataset_arguments(parser)
    parser.add_argument("-o", "--output", default="report.html", help="page to write")


def add_reprocess(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``reprocess``."""
    dataset_arguments(parser, version=False)
    parser.add_argument("--product", default="aia", help="which product; by default aia")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="what changes")
    parser.add_argument("--from", dest="start", help="start of the stretch to reprocess (UTC); by default all")
    parser.add_argument("--to", dest="end", help="end of the stretch, exclusive (UTC)")
    parser.add_argument("--drop", action="store_true", help="give the reprocessing up")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    wait_argument(parser)


def add_expire(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``expire``."""
    dataset_arguments(parser, version=False)
    parser.add_argument(
        "--older-than", type=float, default=30.0, metavar="DAYS", help="age from which untagged versions go"
    )
    wait_argument(parser)


def add_versions(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``versions``."""
    dataset_arguments(parser, version=False)
    json_argument(parser)
