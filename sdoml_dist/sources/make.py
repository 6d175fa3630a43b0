"""From a recipe to its source."""

from __future__ import annotations

from sdoml_dist.recipe import FilesConfig, JsocConfig, Recipe, SimulatorConfig
from sdoml_dist.sources.base import Source
from sdoml_dist.store.storage import join, sidecar_options, sidecar_url


def make_source(recipe: Recipe) -> Source:
    """Return the source of a recipe; its side files are next to the dataset unless the recipe says otherwise."""
    config, place, options = recipe.source, sidecar_url(recipe.store), sidecar_options(recipe.store)
    if isinstance(config, FilesConfig):
        from sdoml_dist.sources.files import FilesSource

        return FilesSource(config, join(place, "index"), options)
    if isinstance(config, SimulatorConfig):
        from sdoml_dist.sources.simulator import SimulatorSource

        return SimulatorSource(config.simulation)
    if isinstance(config, JsocConfig):
        from sdoml_dist.sources.jsoc import JsocSource

        return JsocSource(config, config.cache or join(place, "jsoc"), {} if config.cache else options)
    from sdoml_dist.sources.synoptic import SynopticSource

    return SynopticSource(config)
