"""Checkpoints: everything that goes on with a training as if it had never stopped, without pickled code.

A folder with ``model.safetensors`` (weights and buffers), ``state.pt`` (optimiser and scheduler; loaded with
``weights_only``) and ``checkpoint.json`` (step, experiment, configuration, what it was trained on).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdoml_dist import __version__
from sdoml_dist.errors import UsageError

MODEL, STATE, ABOUT = "model.safetensors", "state.pt", "checkpoint.json"


def save(folder: Path, model: nn.Module, state: dict[str, Any], about: dict[str, Any]) -> None:
    """Write a checkpoint into an empty folder.

    Parameters
    ----------
    folder : pathlib.Path
        Where to write.
    model : torch.nn.Module
        Network, unwrapped.
    state : dict
        State of optimiser and scheduler: tensors and plain data.
    about : dict
        Plain data.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / MODEL)
    torch.save(state, folder / STATE)
    text = json.dumps(about | {"sdoml_dist": __version__, "torch": torch.__version__}, indent=1)
    (folder / ABOUT).write_text(text, encoding="utf-8")


def newest(folder: str | Path) -> Path:
    """Return a checkpoint's folder: the one given, or the newest of the run that is given."""
    place = Path(folder)
    if (place / ABOUT).is_file():
        return place
    there = [one for one in place.glob("checkpoint_*") if (one / ABOUT).is_file()]
    return max(there, key=lambda one: int(about(one)["step"]), default=place)


def about(folder: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says about itself.

    Raises
    ------
    UsageError
        If it is none.
    """
    path = Path(folder) / ABOUT
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} is not a checkpoint: {error}",
            "",
            "Give a folder with checkpoint.json, as 'sdoml train' prints it.",
        ) from None
    return found


def load_model(folder: str | Path, model: nn.Module) -> None:
    """Load weights and buffers into a network.

    Raises
    ------
    UsageError
        If they are those of another network.
    """
    tensors = load_file(Path(folder) / MODEL)
    wanted = model.state_dict()
    wrong = [name for name in wanted.keys() | tensors.keys() if name not in wanted or name not in tensors]
    wrong += [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if wrong:
        raise UsageError(
            f"The checkpoint {folder} is of another network: {', '.join(sorted(wrong)[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            "Weights would end up in places they were not learned for.",
            "Use the configuration in its checkpoint.json.",
        )
    model.load_state_dict(tensors)


def load_state(folder: str | Path) -> dict[str, Any]:
    """Return the state of optimiser and scheduler."""
    state: dict[str, Any] = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    return state


def model_hash(folder: str | Path) -> str:
    """Return the SHA-256 of the weights, 16 hexadecimal digits: what names a model in a catalog."""
    return hashlib.sha256((Path(folder) / MODEL).read_bytes()).hexdigest()[:16]
