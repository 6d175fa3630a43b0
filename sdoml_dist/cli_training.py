"""The verb ``train``: networks of the published experiments."""

from __future__ import annotations

import argparse


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``train``."""
    parser.add_argument("config", help="YAML file, or the name of a shipped experiment such as latent-space")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a key, e.g. network.latent=512")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")


def run_train(options: argparse.Namespace) -> int:
    """Run ``train`` and return its exit code."""
    from sdoml_dist.training.run import load_config, train_experiment

    outcome = train_experiment(load_config(options.config, options.set), cpus=options.cpus)
    told = ", ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items() if name != "step")
    print(f"step {outcome.step}: {told}")
    print(outcome.checkpoint)
    return int(outcome.exit_code)
