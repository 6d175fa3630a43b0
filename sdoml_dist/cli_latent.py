"""The verbs about what trained networks make: tables, latent catalogs and what is done with them."""

from __future__ import annotations

import argparse
import json

from sdoml_dist.cli_arguments import json_argument, store_options, wait_argument
from sdoml_dist.errors import UsageError


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``evaluate``."""
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of a run: its best by validation")
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


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-url", help="address of an S3-compatible server")
    parser.add_argument("--region", help="region of the bucket")


def add_decode(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``decode``."""
    parser.add_argument("catalog", help="folder or bucket of a latent catalog")
    parser.add_argument("output", help="where the dataset is made")
    parser.add_argument("--checkpoint", required=True, help="the checkpoint that encoded it, or its run")
    parser.add_argument("--dataset", help="the dataset that was encoded, if it is no longer where the catalog says")
    parser.add_argument("--shard-slots", type=int, metavar="N", help="slots per shard; by default 8 MiB of a channel")
    parser.add_argument("--group", type=int, default=64, metavar="N", help="shards of time per commit")
    parser.add_argument("--cpus", type=int, help="CPUs of the private Ray (without RAY_ADDRESS)")
    wait_argument(parser)
    _places(parser)


def run_decode(options: argparse.Namespace) -> int:
    """Run ``decode`` and return its exit code."""
    from sdoml_dist.engine.decode import decode
    from sdoml_dist.store.reader import as_store

    places = store_options(options)
    done = decode(
        as_store(options.catalog, **places), as_store(options.output, **places), options.checkpoint,
        dataset=as_store(options.dataset, **places) if options.dataset else None, shard_slots=options.shard_slots,
        group=options.group, cpus=options.cpus, wait_s=options.wait,
    )  # fmt: skip
    print(
        f"{done.frames} frames, {done.ok} with an image, in {done.shards} shards and {done.commits} commits, "
        f"{done.seconds:.0f} s"
    )
    return 0


def add_compact(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``compact``."""
    parser.add_argument("catalog", help="folder or bucket of a latent catalog")
    parser.add_argument("--target", default="128MiB", metavar="SIZE", help="bytes of a file")
    _places(parser)


def run_compact(options: argparse.Namespace) -> int:
    """Run ``compact`` and return its exit code."""
    from sdoml_dist.report.text import human_bytes
    from sdoml_dist.store.catalog import compact

    done = compact(options.catalog, options.target, **store_options(options))
    print(
        f"{done.months} months merged: {done.files_before} files ({human_bytes(done.bytes_before)}) are now "
        f"{done.files_after} ({human_bytes(done.bytes_after)}); {done.removed} removed"
    )
    return 0


def add_compression(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``compression``."""
    parser.add_argument("dataset", help="local folder, s3:// or gs:// address")
    parser.add_argument("--catalog", help="latents of it, to measure real files")
    parser.add_argument("--checkpoint", help="the network that made them, or its run")
    parser.add_argument("--channels", nargs="+", metavar="NAME", help="by default all that have images")
    parser.add_argument("--size", type=int, default=128, help="pixels per side that the network takes: 128, 256, 512")
    parser.add_argument("--version", help="tag or snapshot; by default the newest")
    json_argument(parser)
    _places(parser)


def run_compression(options: argparse.Namespace) -> int:
    """Run ``compression`` and return its exit code."""
    from sdoml_dist.report.compression import dataset_report
    from sdoml_dist.store.reader import as_store

    places = store_options(options)
    report = dataset_report(
        as_store(options.dataset, **places), version=options.version, channels=options.channels, size=options.size,
        catalog=as_store(options.catalog, **places) if options.catalog else None, checkpoint=options.checkpoint,
    )  # fmt: skip
    print(json.dumps(report.as_data(), indent=1) if options.json else report.text())
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
    parser.add_argument("-o", "--output", metavar="PNG", help="draw the suns; reads the dataset that was encoded")
    parser.add_argument("--dataset", help="where that is, if no longer where the catalog says")
    parser.add_argument("--channels", nargs="+", metavar="NAME", help="what to draw; by default some")
    _places(parser)


def run_similar(options: argparse.Namespace) -> int:
    """Run ``similar`` and return its exit code."""
    from sdoml_dist.store.catalog import open_catalog
    from sdoml_dist.store.reader import as_store
    from sdoml_dist.store.similar import similar

    places = store_options(options)
    catalog = open_catalog(options.catalog, **places)
    found = similar(catalog, options.time, options.k, metric=options.metric, exclude_within=options.exclude_within)
    print(found.to_pandas().to_string(index=False))
    if options.output:
        from sdoml_dist.pipelines.similar import draw_similar

        store = as_store(options.dataset, **places) if options.dataset else None
        print(draw_similar(catalog, found, options.output, dataset=store, channels=options.channels))
    return 0


def add_flux(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux``."""
    parser.add_argument("flux", help="CSV of daily radio flux: LISIRD's F30 or F10.7, or date,f107")
    parser.add_argument("--catalog", action="append", default=[], metavar="[NAME=]PLACE", help="latents as features")
    parser.add_argument("--dataset", help="images for the baseline of a network that was not trained on the Sun")
    parser.add_argument("--resnet", metavar="FILE", help="weights of torchvision's resnet18; random ones without")
    parser.add_argument("--resnet-channel", default="211A", metavar="NAME", help="what the baseline sees")
    parser.add_argument("--column", help="column of the flux, where there are several")
    parser.add_argument("--hour", type=float, default=0.0, help="UT hour of the image of a day")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. horizons=[1,2,4], gap_days=27"
    )
    parser.add_argument("-o", "--output", default="flux", metavar="FOLDER", help="where table and figure go")
    _places(parser)


def run_flux(options: argparse.Namespace) -> int:
    """Run ``flux`` and return its exit code."""
    from sdoml_dist.pipelines.flux import daily_latents, daily_resnet_features, forecast_config, forecast_flux
    from sdoml_dist.store.catalog import open_catalog
    from sdoml_dist.store.reader import as_store

    if not options.catalog and not options.dataset:
        raise UsageError("There is nothing to forecast from.", "", "Give --catalog, --dataset or both.")
    places, config, features = store_options(options), forecast_config(options.set), {}
    for text in options.catalog:
        name, sign, place = text.partition("=")
        opened = open_catalog(place if sign else text, **places)
        features[name if sign else f"{opened.info.model}, {opened.info.latent}"] = daily_latents(opened, options.hour)
    if options.dataset:
        from sdoml_dist.models.resnet import FeatureNetwork

        network = FeatureNetwork(options.resnet)
        store = as_store(options.dataset, **places)
        features[network.name] = daily_resnet_features(
            store, network, channel=options.resnet_channel, hour=options.hour
        )
    table = forecast_flux(options.flux, features, options.output, config, column=options.column)
    print(table.to_text(), end="")
    return 0
