"""The verb that applies trained networks to datasets."""

from __future__ import annotations

import argparse

from sdoml_dist.cli_arguments import store_options, wait_argument


def add_apply(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``apply``."""
    parser.add_argument("run", help="folder of a run, whose best checkpoint by validation is taken, or of a checkpoint")
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("output", help="where the result is made: a dataset of its own")
    parser.add_argument("--version", help="tag or snapshot of the dataset; by default the newest")
    parser.add_argument("--tag", metavar="NAME", help="name of the finished version of the output")
    parser.add_argument(
        "--retry", action="append", choices=["failed", "missing", "rejected"], help="do frames of this outcome again"
    )
    parser.add_argument("--shard-slots", type=int, metavar="N", help="slots per shard; by default 8 MiB of a channel")
    parser.add_argument("--group", type=int, default=64, metavar="N", help="shards of time per commit")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images that go through the network at once")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    wait_argument(parser)
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_apply(options: argparse.Namespace) -> int:
    """Run ``apply`` and return its exit code."""
    from sdoml_dist.engine.apply import apply
    from sdoml_dist.store.reader import as_store

    places = store_options(options)
    done = apply(
        options.run, as_store(options.dataset, **places), as_store(options.output, **places), version=options.version,
        tag=options.tag, retry=tuple(options.retry or ()), shard_slots=options.shard_slots, group=options.group,
        batch=options.batch, cpus=options.cpus, wait_s=options.wait,
    )  # fmt: skip
    written = done.written
    print(
        f"{written.frames} frames, {written.ok} with an image, in {written.shards} shards and {written.commits} commits, "
        f"{written.seconds:.0f} s; of version {done.snapshot}"
    )
    if done.tag is not None:
        print(f"the result is version {done.tag}")
    return int(done.exit_code)
