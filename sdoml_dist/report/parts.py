"""Small pieces of HTML and text that the sections of a report share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from sdoml_dist.report.charts import colour_key
from sdoml_dist.solar.times import format_fits_time


def table(head: Sequence[str], body: Sequence[Sequence[str]], label: str, css: str = "", foot: bool = False) -> str:
    """Return a table of HTML cells; the first of each row is its heading, the last row the total if `foot`."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    rows = [f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) for row in body]
    end = f"<tfoot><tr>{rows.pop()}</tr></tfoot>" if foot else ""
    inner = f"<thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>{end}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="{css}">{inner}</table></div>'
    )


def note(text: str) -> str:
    """Return a paragraph that explains what follows."""
    return f'<p class="note">{text}</p>'


def facts(told: dict[str, str]) -> str:
    """Return names and values, in two columns where there is room."""
    listed = "".join(
        f"<div{' class=wide' if name in ('Version', 'Dataset') else ''}><dt>{name}</dt><dd>{value}</dd></div>"
        for name, value in told.items()
    )
    return f'<dl class="facts">{listed}</dl>'


def percent(part: int, whole: int) -> str:
    """Write a share so that neither little nor nearly all is rounded away."""
    if whole == 0:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "< 0.01 %"
    return f"{min(share, 99.99) if part < whole else share:.{2 if 0 < share < 1 or 99 < share < 100 else 1}f} %"


def moment(time: np.datetime64) -> str:
    """Write a time as briefly as it can be."""
    return format_fits_time(time, 0).replace("T", " ").removesuffix(":00")


def duration(seconds: int) -> str:
    """Write a duration in the largest unit that divides it."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def channel_name(channel: str, index: int, label: Callable[[str], str]) -> str:
    """Return the name of a channel in its colour."""
    return f'<b data-c="{colour_key(channel, index)}">{escape(label(channel))}</b>'
