"""The command line: verbs to functions, errors to exit codes. No logic here."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from sdoml_dist import __version__
from sdoml_dist import cli_dataset as data
from sdoml_dist import cli_latent as latent
from sdoml_dist.cli_apply import add_apply, run_apply
from sdoml_dist.cli_cluster import add_submit, run_submit, unknown_arguments
from sdoml_dist.cli_drawing import add_drawing, run_drawing
from sdoml_dist.cli_emergence import add_emergence, run_emergence
from sdoml_dist.cli_far_side import add_far_side, run_far_side
from sdoml_dist.cli_forecast import add_forecast, run_forecast
from sdoml_dist.cli_history import add_history, run_history
from sdoml_dist.cli_layouts import add_export, add_import, run_export, run_import
from sdoml_dist.cli_outputs import refuse_lost
from sdoml_dist.cli_training import (
    add_encode,
    add_schema,
    add_train,
    run_encode,
    run_schema,
    run_train,
)
from sdoml_dist.errors import ExitCode, SdomlError
from sdoml_dist.redact import DiscreetFormatter, redact_setting

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest verb and exits with our code for wrong usage."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice:" in message:
            given = message.split("invalid choice: '")[1].split("'")[0]
            near = difflib.get_close_matches(given, list(VERBS), 1, 0.4)
            message = f"there is no verb {given!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        self.exit(int(ExitCode.USAGE), f"sdoml: {redact_setting(message)}\nTry 'sdoml --help'.\n")


VERBS: dict[str, tuple[Command, Callable[[argparse.ArgumentParser], None], str, str]] = {
    "demo": (
        data.run_demo,
        data.add_demo,
        "simulate a stretch of the mission and build it: the whole way in two minutes",
        "sdoml demo",
    ),
    "plan": (data.run_plan, data.add_plan, "show what a recipe would do; writes nothing", "sdoml plan sdoml-v2 --json"),
    "prefetch": (
        data.run_prefetch,
        data.add_prefetch,
        "fetch calibration tables and frames where there is a network",
        "sdoml prefetch aia-level1 --tables-only",
    ),
    "build": (
        data.run_build,
        data.add_build,
        "build a dataset, or go on where a run stopped",
        "sdoml build sdoml-v2 --set store.url=/data/sdoml-v2",
    ),
    "update": (
        data.run_update,
        data.add_update,
        "add new and changed frames, and name the new version",
        "sdoml update /data/sdoml-v2 --to now",
    ),
    "status": (
        data.run_status,
        data.add_status,
        "count frames by outcome, and show the latest run",
        "sdoml status sdoml-demo/dataset --failed",
    ),
    "inspect": (
        data.run_inspect,
        data.add_inspect,
        "describe a dataset, finished or not",
        "sdoml inspect sdoml-demo/dataset",
    ),
    "validate": (
        data.run_validate,
        data.add_validate,
        "check a dataset against its own laws",
        "sdoml validate sdoml-demo/dataset",
    ),
    "quicklook": (
        data.run_quicklook,
        data.add_quicklook,
        "draw all channels of one time",
        "sdoml quicklook sdoml-demo/dataset -o sun.png",
    ),
    "history": (
        run_history,
        add_history,
        "say what the workers of a run did: units, utilisation, memory; draw it",
        "sdoml history /data/sdoml-v2 -o history.png",
    ),
    "diff": (data.run_diff, data.add_diff, "say what changed between two versions", "sdoml diff /data/sdoml-v2 v1 v2"),
    "report": (
        data.run_report,
        data.add_report,
        "write a page about a dataset",
        "sdoml report sdoml-demo/dataset -o report.html",
    ),
    "reprocess": (
        data.run_reprocess,
        data.add_reprocess,
        "make frames again with another calibration, on a branch",
        "sdoml reprocess /data/sdoml-v2 --set calibration.degradation.url=new_table.txt",
    ),
    "export": (
        run_export,
        add_export,
        "write one of SDOML's published layouts",
        "sdoml export /data/sdoml-v2 /data/published --layout sdoml-v2",
    ),
    "import": (
        run_import,
        add_import,
        "bring a dataset in a published layout into one of ours",
        "sdoml import /data/published/sdomlv2.zarr /data/imported",
    ),
    "emergence": (
        run_emergence,
        add_emergence,
        "track emerging regions, their acoustic power and timelines",
        "sdoml emergence build solared --set source.url=/data/hmi",
    ),
    "train": (
        run_train,
        add_train,
        "train the network of a published experiment, or go on where a run stopped",
        "sdoml train latent-space --set data.store.url=/data/sdoml",
    ),
    "evaluate": (
        latent.run_evaluate,
        latent.add_evaluate,
        "make the tables and pictures of a trained network's experiment, beside the published figures",
        "sdoml evaluate runs/latent-space --part test",
    ),
    "encode": (
        run_encode,
        add_encode,
        "encode a dataset by a trained network into a catalog of latent vectors",
        "sdoml encode runs/latent-space/checkpoint_... /data/sdoml /data/latents",
    ),
    "far-side": (
        run_far_side,
        add_far_side,
        "make magnetograms of the Sun's far side from frames of STEREO",
        "sdoml far-side runs/far-side /data/euvi far-side-fields",
    ),
    "drawing": (
        run_drawing,
        add_drawing,
        "make images of the Sun from pictures of sunspot drawings",
        "sdoml drawing runs/galileo 1612-06-02.png --time 1612-06-02T15:00 --north -14.8 -o made",
    ),
    "forecast": (
        run_forecast,
        add_forecast,
        "forecast emerging regions by a trained network, the hours to come among them",
        "sdoml forecast runs/emergence-forecast TIMELINES -o forecasts",
    ),
    "apply": (
        run_apply,
        add_apply,
        "apply a trained network to the images of a dataset; the result is a dataset",
        "sdoml apply runs/denoising /data/magnetograms /data/denoised --tag v1",
    ),
    "decode": (
        latent.run_decode,
        latent.add_decode,
        "make images of latent vectors again, as a dataset",
        "sdoml decode /data/latents /data/decoded --checkpoint runs/latent-space",
    ),
    "compact": (
        latent.run_compact,
        latent.add_compact,
        "merge the many files of a latent catalog into few",
        "sdoml compact /data/latents",
    ),
    "compression": (
        latent.run_compression,
        latent.add_compression,
        "say how small latent vectors make a dataset, by arithmetic and by files",
        "sdoml compression /data/sdoml --catalog /data/latents --checkpoint runs/latent-space",
    ),
    "flux": (
        latent.run_flux,
        latent.add_flux,
        "forecast the radio flux from latent vectors, beside the published baselines",
        "sdoml flux f30.csv --catalog /data/latents --dataset /data/sdoml -o flux",
    ),
    "similar": (
        latent.run_similar,
        latent.add_similar,
        "find the most similar suns in a latent catalog",
        "sdoml similar /data/latents --time 2014-01-07T18:00 -k 20",
    ),
    "submit": (
        run_submit,
        add_submit,
        "run a verb as a job of a Ray cluster, follow it, and end with its exit code",
        "sdoml submit --address http://HEAD:8265 -- build sdoml-v2 --set store.url=s3://bucket/sdoml",
    ),
    "expire": (
        data.run_expire,
        data.add_expire,
        "remove old versions that no tag holds",
        "sdoml expire /data/sdoml-v2 --older-than 90",
    ),
    "tag": (data.run_tag, data.add_tag, "name a version, for ever", "sdoml tag sdoml-demo/dataset v1"),
    "versions": (data.run_versions, data.add_versions, "list tags and commits", "sdoml versions sdoml-demo/dataset"),
    "schema": (
        run_schema,
        add_schema,
        "print the JSON schema of recipes, or of an experiment's configuration",
        "sdoml schema latent-space > latent-space.schema.json",
    ),
    "simulate": (
        data.run_simulate,
        data.add_simulate,
        "write simulated level-1 FITS files",
        "sdoml simulate demo -o /data/simulated",
    ),
    "doctor": (
        data.run_doctor,
        data.add_doctor,
        "check this machine and, given a recipe, its source and store",
        "sdoml doctor",
    ),
}


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
    root = parser()
    options, left = root.parse_known_args(arguments)
    if left:
        root.error(unknown_arguments(options, left))
    logging.Formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(DiscreetFormatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("sdoml").setLevel(logging.INFO)
    if options.verbose:
        logging.getLogger("sdoml_dist").setLevel(logging.DEBUG)
    try:
        refuse_lost(options)
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
