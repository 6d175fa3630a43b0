"""Checkpoints: everything that goes on with a training as if it had never stopped, without pickled code.

A folder with ``model.safetensors`` or one such file per player (weights and buffers), ``ema.safetensors`` where averaged
weights are kept, ``state.pt`` (optimisers; loaded with ``weights_only``), ``checkpoint.json`` (step, experiment,
configuration, what it was trained on) and ``card.md``. A folder of this name is always whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import canonical_json, difference
from sdoml_dist.training.card import card
from sdoml_dist.version import code_version

STATE, ABOUT, CARD = "state.pt", "checkpoint.json", "card.md"
EMA = "ema"


def save(folder: Path, networks: Mapping[str, nn.Module], state: dict[str, Any], about: dict[str, Any]) -> None:
    """Write a checkpoint into an empty folder.

    Parameters
    ----------
    folder : pathlib.Path
        Where to write.
    networks : mapping of str to torch.nn.Module
        Networks by the names of their files, unwrapped.
    state : dict
        State of the optimisers: tensors and plain data.
    about : dict
        Plain data.
    """
    for name, network in networks.items():
        # Tensors that share memory are written once each.
        tensors = {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    torch.save(state, folder / STATE)
    told = about | {"sdoml_dist": code_version(), "torch": torch.__version__}
    (folder / CARD).write_text(card(told), encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(told, indent=1), encoding="utf-8")


def keep(run: Path, step: int, write: Callable[[Path], None], number: int) -> Path:
    """Write the checkpoint of a step into a run's folder, at once or not at all, and remove those too many.

    Parameters
    ----------
    run : pathlib.Path
        Folder of the run.
    step : int
        The step.
    write : callable
        Writes the files into the folder that it is given.
    number : int
        How many of the newest stay; the best by validation loss stays besides.

    Returns
    -------
    pathlib.Path
        The checkpoint.
    """
    place = run / f"checkpoint_{step:08d}"
    temporary = run / f".{place.name}.{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if place.exists():
            shutil.rmtree(place)
        temporary.rename(place)
        _flush(run)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    there = found(run)
    kept = {*there[-number:], best(run)}
    for old in there:
        if old not in kept:
            # Away from its name first: a removal that is broken off leaves no half checkpoint.
            gone = run / f".{old.name}.{uuid.uuid4().hex}"
            old.rename(gone)
            shutil.rmtree(gone)
    return place


def tidy(run: Path) -> None:
    """Remove what a writer that was killed has left."""
    for path in run.glob(".checkpoint_*"):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def found(run: str | Path) -> list[Path]:
    """Return a run's checkpoints, the newest last."""
    there = [one for one in Path(run).glob("checkpoint_*") if (one / ABOUT).is_file()]
    return sorted(there, key=lambda one: int(about(one)["step"]))


def chosen(folder: str | Path) -> Path:
    """Return the checkpoint to be used: the one given, or that of the run given which is best by validation.

    Of a run that was never validated it is the newest. A folder that is neither is returned as it is.
    """
    place = Path(folder)
    if (place / ABOUT).is_file():
        return place
    there = found(place)
    return best(place) or (there[-1] if there else place)


def best(run: str | Path) -> Path | None:
    """Return the checkpoint of a run with the smallest validation loss; None if none was validated."""
    losses = {
        one: loss for one in found(run) if (loss := about(one)["metrics"].get("validation_loss")) is not None
    }  # fmt: skip
    return min(losses, key=lambda one: losses[one], default=None)


def about(folder: str | Path) -> dict[str, Any]:
    """Return what a checkpoint says about itself.

    Raises
    ------
    UsageError
        If it is none.
    """
    path = Path(folder) / ABOUT
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} is not a checkpoint: {error}",
            "",
            "Give a folder with checkpoint.json, as 'sdoml train' prints it.",
        ) from None
    return told


def check(folder: str | Path, told: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a checkpoint of another experiment, or of data that were prepared in another way.

    Parameters
    ----------
    folder : path
        The checkpoint, for the message.
    told, wanted : dict
        What it says about itself, and what is to be done with it: ``experiment`` and ``prepared``.

    Raises
    ------
    UsageError
        With the differences.
    """
    ours = {key: value for key, value in wanted.items() if key in ("experiment", "prepared")}
    theirs = {key: told.get(key) for key in ours}
    lines = difference(theirs, json.loads(canonical_json(ours)))
    if lines:
        raise UsageError(
            f"The checkpoint {folder} was trained on other data:\n" + "\n".join(lines[:12]),
            "With other channels or another normalisation its weights mean nothing.",
            "Use what its checkpoint.json says, or train again.",
        )


def load_model(folder: str | Path, model: nn.Module, player: str = "model") -> None:
    """Load weights and buffers into a network.

    Parameters
    ----------
    folder : path
        The checkpoint.
    model : torch.nn.Module
        The network, unwrapped.
    player : str
        Which of the checkpoint's networks; ``ema`` has the averaged weights.

    Raises
    ------
    UsageError
        If they are those of another network.
    """
    try:
        tensors = load_file(Path(folder) / f"{player}.safetensors")
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"The checkpoint {folder} has no weights of {player!r} that can be read: {error}",
            "",
            f"It has {', '.join(sorted(path.stem for path in Path(folder).glob('*.safetensors'))) or 'none'}.",
        ) from None
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
    """Return the states of the optimisers by player."""
    state: dict[str, Any] = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    return state


def model_hash(folder: str | Path, player: str = "model") -> str:
    """Return the SHA-256 of the weights, 16 hexadecimal digits: what names a model in a catalog."""
    return hashlib.sha256((Path(folder) / f"{player}.safetensors").read_bytes()).hexdigest()[:16]
