"""The speed of this machine: the real work on simulated files, timed in this process, and kept in the user's cache."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sdoml_dist import __version__
from sdoml_dist.atomic import write_atomic
from sdoml_dist.pipelines.images import ImagePipeline
from sdoml_dist.pipelines.series import SeriesPipeline
from sdoml_dist.plan import Plan, Speed
from sdoml_dist.recipe_file import parse_recipe
from sdoml_dist.solar.products import PRODUCTS
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.make import make_simulator, make_source
from sdoml_dist.store.dataset import Dataset, write_unit

_START = np.datetime64("2011-02-15T00:00", "ns")
_LARGE, _SMALL, _TARGET = 4096, 1024, 512
# Records per part. Several, and different ones: a single file would stay in the processor's cache.
_RECORDS = {"large": 6, "small": 24, "vector": 2, "series": 6}


def measure(seconds: float = 5.0, pixels: int = _LARGE) -> Speed:
    """Time the work on simulated files, each part for some seconds.

    What counts is CPU time: what a core does where neither source nor store lets it wait. With all cores at work, which
    share memory and caches, each may be slower.

    Parameters
    ----------
    seconds : float
        For each of the parts.
    pixels : int
        Pixels per axis of the larger frames; other than 4096 for tests only.

    Returns
    -------
    Speed
        With today's date.
    """
    small = min(_SMALL, pixels // 4)
    slow, _ = _time("aia", "171A", pixels, _RECORDS["large"], seconds)
    fast, write = _time("aia", "171A", small, _RECORDS["small"], seconds)
    vector, _ = _time("hmi", "B", pixels, _RECORDS["vector"], seconds)
    per_pixel = max(slow - fast, 0.0) / (pixels**2 - small**2)
    return Speed(
        image_frame_s=max(fast - per_pixel * small**2, 0.0),
        image_pixel_s=per_pixel,
        vector_pixel_s=vector / pixels**2,
        series_file_s=sum(_time("eve", "lines", pixels, _RECORDS["series"], seconds)),
        write_byte_s=write / (4 * _TARGET**2),
        cpu=cpu_model(),
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
    )


def _time(product: str, bundle: str, pixels: int, records: int, seconds: float) -> tuple[float, float]:
    """Make and write a unit of simulated files; return the seconds that making and writing take per record."""
    contents = PRODUCTS[product]
    step = {"aia": 360, "hmi": 720, "eve": 3600}[product]
    simulator = make_simulator(SimulationConfig(pixels=pixels), contents)
    # Records of HMI stand at whole steps of TAI, up to 37 s before those of UTC.
    first, end = _START - np.timedelta64(60, "s"), _START + records * np.timedelta64(step, "s")
    with tempfile.TemporaryDirectory(prefix="sdoml-speed-") as folder:
        for path, record in simulator.files(bundle, first, end - np.timedelta64(60, "s")):
            write_atomic(Path(folder) / "files" / path, simulator.fetch(record))
        cadence = 60 if product == "eve" else step
        recipe = parse_recipe(
            {
                "product": product,
                "name": "speed",
                "period": {"start": str(_START)[:19], "end": str(end)[:19]},
                "cadence": cadence,
                "tolerance": 0 if product == "eve" else 60,
                "channels": list(contents.bundle(bundle).channels),
                "grid": {"pixels": _TARGET},
                "source": {"kind": "files", "url": f"{folder}/files", "pixels": pixels, "glob": "**/*"},
                "store": {"url": f"{folder}/dataset"},
                "chunking": {"shard_slots": records * step // cadence},
            }
        )
        dataset = Dataset(Plan(recipe), {})
        source = make_source(recipe)
        source.prepare([bundle], first, end)
        pipeline = (ImagePipeline if contents.kind == "images" else SeriesPipeline)(recipe, source)
        ((unit, slots),) = dataset.pending()
        work = pipeline.process(unit, slots)
        if not work.read_bytes or (work.status != 1).all():
            raise RuntimeError(f"the simulated files of {product} were not used: {work.details}")
        make = _typical(lambda: pipeline.process(unit, slots), seconds)
        write = _typical(
            lambda: write_unit(
                dataset.fork_bytes, recipe, unit, slots, work.values, work.texts, work.histograms
            ),
            seconds / 2,
        )  # fmt: skip
    return make / records, write / records


def _typical(work: Callable[[], object], seconds: float) -> float:
    """Return the median CPU time of some repetitions, seconds; waiting for a busy machine or disk does not count."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return float(np.median(times))


def cpu_model() -> str:
    """Return the model of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or ""
    # A relative XDG_CACHE_HOME is to be ignored, says its specification.
    return (Path(root) if Path(root).is_absolute() else Path.home() / ".cache") / "sdoml" / "speed.json"


def _key(cpu: str) -> str:
    return f"{cpu} | sdoml_dist {__version__}"


def save(speed: Speed) -> Path:
    """Keep a measurement for this processor and version of the package, and return the file."""
    path = _path()
    write_atomic(path, json.dumps(_read(path) | {_key(speed.cpu): asdict(speed)}, indent=1).encode())
    return path


def load() -> Speed | None:
    """Return what was measured on such a processor with this version of the package, or None."""
    try:
        return Speed(**_read(_path())[_key(cpu_model())])
    except (KeyError, TypeError):
        return None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return what the file holds; a damaged one counts as none, for it can be measured again."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
