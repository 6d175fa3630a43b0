"""The verbs about networks: train, encode, and search what was encoded."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sdoml_dist.cli_arguments import store_options, wait_argument
from sdoml_dist.errors import ExitCode


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``train``."""
    parser.add_argument("config", help="YAML file, or the name of a shipped experiment such as latent-space")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a key, e.g. network.latent=512")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    wait_argument(parser)


def run_train(options: argparse.Namespace) -> int:
    """Run ``train`` and return its exit code."""
    from sdoml_dist.training.run import load_config, train_experiment

    outcome = train_experiment(load_config(options.config, options.set), cpus=options.cpus, wait_s=options.wait)
    told = {name: value for name, value in outcome.metrics.items() if name not in ("step", "unix_s", "data_wait")}
    if outcome.before:
        print("This training was finished before; raise training.steps to go on with it.")
    print(f"step {outcome.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
    if "data_wait" in outcome.metrics:
        print(f"waited for data {outcome.metrics['data_wait']:.1%} of the time")
    if outcome.best and outcome.best != outcome.checkpoint:
        print(f"best by validation: {outcome.best}")
    print(outcome.checkpoint)
    return int(outcome.exit_code)


def add_schema(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``schema``."""
    parser.add_argument("experiment", nargs="?", help="name of an experiment; by default recipes of datasets")


def run_schema(options: argparse.Namespace) -> int:
    """Run ``schema`` and return its exit code."""
    if options.experiment is None:
        from sdoml_dist.recipe import Recipe

        print(json.dumps(Recipe.model_json_schema(), indent=2))
        return ExitCode.COMPLETE
    from sdoml_dist.training.experiment import find_experiment

    print(json.dumps(find_experiment(options.experiment).Config.model_json_schema(), indent=2))
    return ExitCode.COMPLETE


def add_encode(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``encode``."""
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of a run: its best by validation")
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("catalog", help="folder or bucket of the latent catalog")
    parser.add_argument("--version", help="tag or snapshot of the dataset; by default the newest")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the latents")
    parser.add_argument("--log-variance", action="store_true", help="keep the logarithm of the variance as well")
    parser.add_argument("--rows", type=int, default=1024, metavar="N", help="slots per file")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_encode(options: argparse.Namespace) -> int:
    """Run ``encode`` and return its exit code."""
    from sdoml_dist.engine.encode import encode
    from sdoml_dist.report.text import human_bytes
    from sdoml_dist.store.reader import as_store

    places: dict[str, Any] = store_options(options)
    done = encode(
        options.checkpoint, as_store(options.dataset, **places), as_store(options.catalog, **places),
        version=options.version, rows=options.rows, dtype=options.dtype, log_variance=options.log_variance,
        cpus=options.cpus,
    )  # fmt: skip
    print(
        f"{done.rows} slots, {done.ok} with an image, in {done.units} files ({human_bytes(done.written_bytes)}), "
        f"{done.seconds:.0f} s; {done.resumed_units} files there before"
    )
    return int(done.exit_code)
