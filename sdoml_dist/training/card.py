"""The model card: what a checkpoint is, in plain words and from its own values."""

from __future__ import annotations

from typing import Any

_WIDEST = 8


def card(about: dict[str, Any]) -> str:
    """Return the card of a checkpoint as Markdown.

    Parameters
    ----------
    about : dict
        What the checkpoint says about itself.
    """
    config = about.get("config", {})
    name = config.get("name", about.get("experiment", "model"))
    lines = [f"# {name}, step {about['step']}", ""]
    lines += _facts(
        {
            "Experiment": about.get("experiment", "none"),
            "Steps": f"{about['step']} of {about['training']['steps']}" + (", finished" if about["finished"] else ""),
            "Parameters": ", ".join(f"{count:,} ({player})" for player, count in about["parameters"].items()),
            "Code": f"sdoml_dist {about['sdoml_dist']}, PyTorch {about['torch']}",
            "Seed": about["training"]["seed"],
        }
    )
    lines += ["", "## Metrics", ""]
    lines += _facts({key: f"{value:.6g}" for key, value in about["metrics"].items() if isinstance(value, int | float)})
    for title, key in (("Data", "samples"), ("Prepared data", "prepared"), ("Configuration", "config")):
        if about.get(key):
            lines += ["", f"## {title}", "", *_facts(_flat(about[key]))]
    lines += ["", "## Citation and licence", ""]
    lines += [about.get("citation") or "The experiment names no paper."]
    lines += ["", "Weights are made of the data named above; the terms of these data count for them too.", ""]
    return "\n".join(lines)


def _facts(told: dict[str, Any]) -> list[str]:
    return [f"- {name}: {value}" for name, value in told.items()]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested data as one level of readable values."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) > _WIDEST and not isinstance(value[0], str):
            flat[prefix + key] = f"{len(value)} values"
        elif isinstance(value, list):
            flat[prefix + key] = ", ".join(str(one) for one in value)
        else:
            flat[prefix + key] = str(value)
    return flat
