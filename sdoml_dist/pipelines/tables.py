"""Calibration tables: found by their pins, verified by SHA-256, never fetched in the hot path."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import fsspec

from sdoml_dist.errors import CalibrationError, EnvironmentFault
from sdoml_dist.recipe import Pinned, Recipe
from sdoml_dist.solar.calibrate import CalibrationTables
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.degradation import DegradationTable
from sdoml_dist.solar.pointing import PointingTable
from sdoml_dist.sources.download import fetch_bytes
from sdoml_dist.store.storage import join, sidecar_options, sidecar_url


def _cached(recipe: Recipe, pin: Pinned) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return file system and path of the cached copy of a pinned file."""
    name = f"{(pin.sha256 or hashlib.sha256(pin.url.encode()).hexdigest())[:16]}-{Path(urlparse(pin.url).path).name}"
    if recipe.calibration.cache:
        filesystem, folder = fsspec.core.url_to_fs(recipe.calibration.cache)
    else:
        filesystem, folder = fsspec.core.url_to_fs(
            join(sidecar_url(recipe.store), "calibration"), **sidecar_options(recipe.store)
        )
    return filesystem, join(folder, name)


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _verify(data: bytes, pin: Pinned) -> str:
    """Return the SHA-256 of the data after comparing it with the pin."""
    found = hashlib.sha256(data).hexdigest()
    if pin.sha256 is not None and found != pin.sha256:
        raise CalibrationError(
            f"{pin.url} has SHA-256 {found}, the recipe pins {pin.sha256}.",
            "Another calibration than the pinned one would enter the data unseen.",
            "Get the pinned file, or pin the new one on purpose (this makes another dataset).",
        )
    return found


def read_pinned(recipe: Recipe, pin: Pinned) -> bytes:
    """Return the bytes of a pinned file from its place or the cache.

    Raises
    ------
    CalibrationError
        If it is not there, or differs from its pin.
    """
    if _is_local(pin.url):
        path = Path(pin.url.removeprefix("file://"))
        if not path.is_file():
            raise CalibrationError(f"There is no calibration file {path}.", "", "Correct calibration.*.url.")
        data = path.read_bytes()
    else:
        filesystem, cached = _cached(recipe, pin)
        try:
            data = filesystem.cat_file(cached)
        except FileNotFoundError:
            raise CalibrationError(
                f"The calibration file {pin.url} has not been fetched to {cached}.",
                "Builds never use the network for calibration, so that a lost connection cannot change data.",
                "Run 'sdoml prefetch RECIPE' once where there is a network.",
            ) from None
    _verify(data, pin)
    return data


def prefetch_tables(recipe: Recipe) -> dict[str, str]:
    """Fetch the pinned files into the cache and return their SHA-256 by name.

    Raises
    ------
    EnvironmentFault
        If a file cannot be fetched.
    CalibrationError
        If it differs from its pin.
    """
    hashes = {}
    for name, pin in _pins(recipe):
        if _is_local(pin.url):
            hashes[name] = _verify(read_pinned(recipe, pin), pin)
            continue
        filesystem, cached = _cached(recipe, pin)
        if filesystem.exists(cached):
            hashes[name] = _verify(filesystem.cat_file(cached), pin)
            continue
        try:
            data = fetch_bytes(pin.url, _network(recipe))
        except Exception as error:
            raise EnvironmentFault(
                f"{pin.url} could not be fetched: {error}", "", "Check the network and repeat."
            ) from error
        hashes[name] = _verify(data, pin)
        filesystem.makedirs(cached.rsplit("/", 1)[0], exist_ok=True)
        filesystem.pipe_file(cached, data)
    return hashes


def _network(recipe: Recipe) -> Any:
    from sdoml_dist.recipe_sources import Network

    return getattr(recipe.source, "network", None) or Network()


def _pins(recipe: Recipe) -> list[tuple[str, Pinned]]:
    pins = [("degradation", recipe.calibration.degradation), ("pointing", recipe.calibration.pointing)]
    return [(name, pin) for name, pin in pins if pin is not None]


def load_tables(recipe: Recipe) -> CalibrationTables:
    """Read the calibration tables of a recipe.

    Raises
    ------
    CalibrationError
        If one is missing, damaged or differs from its pin.
    """
    calibration = recipe.calibration
    degradation = pointing = None
    if calibration.degradation is not None:
        degradation = DegradationTable.from_response_table(read_pinned(recipe, calibration.degradation).decode())
    if calibration.pointing is not None:
        pointing = PointingTable.from_csv(read_pinned(recipe, calibration.pointing).decode())
    return CalibrationTables(degradation=degradation, pointing=pointing)


def calibration_identity(recipe: Recipe) -> dict[str, Any]:
    """Check that the tables serve the whole period, and return their versions and hashes for the dataset.

    Raises
    ------
    CalibrationError
        If a table is missing, differs from its pin, or gives a factor <= 0 within the period.
    """
    tables = load_tables(recipe)
    identity: dict[str, Any] = {}
    for name, pin in _pins(recipe):
        data = read_pinned(recipe, pin)
        identity[name] = {"file": Path(urlparse(pin.url).path).name, "sha256": hashlib.sha256(data).hexdigest()}
    if tables.degradation is not None:
        identity["degradation"]["version"] = str(tables.degradation.version)
        wavelengths = [AIA[name].wavelength_angstrom for name in recipe.channels]
        tables.degradation.check(wavelengths, recipe.period.first, recipe.period.last)
    return identity
