"""Check a machine before work begins: versions, memory, disk, Ray, and a recipe's store and source."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import psutil

from sdoml_dist.errors import SdomlError
from sdoml_dist.pipelines.tables import calibration_identity
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.status import FrameError
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.lease import Lease


def doctor(recipe: Recipe | None, *, ray: bool = True) -> tuple[str, bool]:
    """Run all checks.

    Parameters
    ----------
    recipe : Recipe, optional
        Its store, calibration and source are tried too.
    ray : bool
        Whether to start or reach Ray.

    Returns
    -------
    tuple of (str, bool)
        A line per check, and whether all passed.
    """
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", lambda: sys.version.split()[0]),
        ("packages", lambda: ", ".join(f"{name} {version(name)}" for name in ("ray", "zarr", "icechunk", "numba"))),
        ("memory", lambda: f"{psutil.virtual_memory().available / 1e9:.1f} GB available"),
        ("scratch", _scratch),
    ]
    if ray:
        checks.append(("ray", _ray))
    if recipe is not None:
        checks += [
            ("calibration", lambda: str(calibration_identity(recipe) or "no tables")),
            ("store", lambda: _store(recipe)),
            ("source", lambda: _source(recipe)),
        ]
    lines, healthy = [], True
    for name, check in checks:
        try:
            lines.append(f"ok    {name:<12} {check()}")
        except (SdomlError, FrameError, OSError) as error:
            healthy = False
            lines.append(f"FAIL  {name:<12} " + str(error).replace("\n", "\n" + " " * 19))
    return "\n".join(lines), healthy


def _scratch() -> str:
    folder = tempfile.gettempdir()
    return f"{folder} has {shutil.disk_usage(folder).free / 1e9:.1f} GB free"


def _ray() -> str:
    from sdoml_dist.engine.cluster import connect

    with connect() as cluster:
        where = "private" if cluster.private else os.environ.get("RAY_ADDRESS", "")
        return f"{where}: {len(cluster.nodes)} nodes, {cluster.cpus:g} CPUs, {cluster.memory_bytes / 1e9:.1f} GB"


def _store(recipe: Recipe) -> str:
    with Lease(recipe.store, "sdoml doctor"):
        return f"{recipe.store.url} can be written and keeps to conditional writes"


def _source(recipe: Recipe) -> str:
    source = make_source(recipe)
    end = min(recipe.period.last, recipe.period.first + np.timedelta64(1, "D"))
    source.prepare([recipe.bundles[0].name], recipe.period.first, end)
    bundle = recipe.bundles[0].name
    found = source.candidates(bundle, recipe.period.first, end)
    if not found:
        return f"{recipe.source.kind} answers, but has nothing of {bundle} in the first day"
    record = found[len(found) // 2]
    size = sum(len(source.fetch(file)) for _, file in record.segments or (("", record),))
    return f"{recipe.source.kind} has {len(found)} records of {bundle} in the first day; one has {size} bytes"
