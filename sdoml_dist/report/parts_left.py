"""Which parts of a plan have something left to do."""

from __future__ import annotations

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.parts import part_of
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import Store
from sdoml_dist.solar.status import has_outcome
from sdoml_dist.store.reader import open_products
from sdoml_dist.store.template import group_path


def parts_left(store: Store, of: int) -> set[int]:
    """Return the numbers of the parts that have frames pending or failed, of any product of a dataset.

    Parameters
    ----------
    store : Store
        The dataset.
    of : int
        How many parts there are.

    Raises
    ------
    UsageError
        If there is not even one.
    """
    if of < 1:
        raise UsageError(f"A plan has no {of} parts.", "", "For example --array-expression 8.")
    numbers: set[int] = set()
    for opened in open_products(store):
        plan, recipe = Plan(opened.recipe), opened.recipe
        left = {
            year: has_outcome(np.asarray(opened.group[f"{group_path(year)}/status"][:]), "pending", "failed")
            for year in plan.years()
        }
        columns = {bundle.name: [recipe.channels.index(name) for name in bundle.channels] for bundle in recipe.bundles}
        units = list(plan.units())
        for index, unit in enumerate(units):
            if left[unit.year][unit.start : unit.stop, columns[unit.bundle]].any():
                numbers.add(part_of(index, len(units), of))
    return numbers
