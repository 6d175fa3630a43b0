"""The verbs about what trained networks make: tables, latent catalogs and what is done with them."""

from __future__ import annotations

import argparse

from sdoml_dist.cli_arguments import store_options


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``evaluate``."""
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of a run: its newest")
    parser.add_argument("dataset", nargs="?", help="another dataset than that of the training")
    parser.add_argument("--version", help="tag or snapshot of that dataset; by default the newest")
    parser.add_argument("--part", default="test", help="train, validation or test, by the training's split")
    parser.add_argument("--most", type=int, metavar="N", help="a random subset of so many samples")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where files go; by default in the run")
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_evaluate(options: argparse.Namespace) -> int:
    """Run ``evaluate`` and return its exit code."""
    from sdoml_dist.pipelines.evaluate import evaluate
    from sdoml_dist.store.reader import as_store

    store = as_store(options.dataset, **store_options(options)) if options.dataset else None
    more = {"most": options.most} if options.most is not None else {}
    text = evaluate(options.checkpoint, options.output, store=store, version=options.version, part=options.part, **more)
    print(text, end="")
    return 0


def add_similar(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``similar``."""
    parser.add_argument("catalog", help="folder or bucket of a latent catalog")
    parser.add_argument("--time", required=True, help="the Sun to compare with, UTC")
    parser.add_argument("-k", type=int, default=20, help="how many")
    parser.add_argument("--metric", choices=["euclidean", "cosine"], default="euclidean", help="distance of latents")
    parser.add_argument(
        "--exclude-within", default="0s", metavar="TIME", help="leave out what is this near in time, e.g. 7d"
    )
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def run_similar(options: argparse.Namespace) -> int:
    """Run ``similar`` and return its exit code."""
    from sdoml_dist.store.catalog import open_catalog
    from sdoml_dist.store.similar import similar

    found = similar(
        open_catalog(options.catalog, **store_options(options)), options.time, options.k, metric=options.metric,
        exclude_within=options.exclude_within,
    )  # fmt: skip
    print(found.to_pandas().to_string(index=False))
    return 0
