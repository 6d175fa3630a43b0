"""From a recipe to its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.recipe_sources import FilesConfig, JsocConfig, NetworkConfig, PublishedConfig, SimulatorConfig
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.sources.base import Source
from sdoml_dist.store.storage import join, sidecar_options, sidecar_url

if TYPE_CHECKING:
    from sdoml_dist.emergence_recipe import EmergenceRecipe
    from sdoml_dist.sources.eve_source import EveSimulatorSource
    from sdoml_dist.sources.hmi_simulator import HmiSimulatorSource
    from sdoml_dist.sources.simulator import SimulatorSource


def make_source(recipe: Recipe | EmergenceRecipe) -> Source:
    """Return the source of a recipe; its side files are next to the dataset unless the recipe says otherwise.

    Raises
    ------
    UsageError
        If a network made the images: they have no frames to build from.
    """
    config, place, options = recipe.source, sidecar_url(recipe.store), sidecar_options(recipe.store)
    if isinstance(config, FilesConfig):
        from sdoml_dist.sources.files import FilesSource

        return FilesSource(config, recipe.contents, join(place, "index"), options)
    if isinstance(config, SimulatorConfig):
        return make_simulator(config.simulation, recipe.contents)
    if isinstance(config, JsocConfig):
        from sdoml_dist.sources.jsoc import JsocSource

        return JsocSource(config, recipe.contents, config.cache or join(place, "jsoc"), {} if config.cache else options)
    if isinstance(config, PublishedConfig):
        from sdoml_dist.sources.published import PublishedSource, check_grid

        if isinstance(recipe, Recipe):
            check_grid(recipe)
        return PublishedSource(config, recipe.contents, join(place, "index"), options)
    if isinstance(config, NetworkConfig):
        raise UsageError(
            f"The images of this recipe were made by a network of the experiment {config.experiment!r}.",
            "There are no frames that they could be built from.",
            "Use the verb that made them, for example 'sdoml decode'.",
        )
    from sdoml_dist.sources.synoptic import SynopticSource

    return SynopticSource(config)


def make_simulator(
    config: SimulationConfig, product: Product
) -> SimulatorSource | HmiSimulatorSource | EveSimulatorSource:
    """Return the simulator of a product."""
    if product.name == "aia":
        from sdoml_dist.sources.simulator import SimulatorSource

        return SimulatorSource(config)
    if product.name == "eve":
        from sdoml_dist.sources.eve_source import EveSimulatorSource

        return EveSimulatorSource(config)
    from sdoml_dist.sources.hmi_simulator import HmiSimulatorSource

    return HmiSimulatorSource(config, product)
