"""Checkpoints of networks as they are before their first step, for tests in which it does not matter what they give."""

from __future__ import annotations

from pathlib import Path

CHANNELS = ["171A", "193A"]


def untrained(folder: Path, dataset: str) -> Path:
    """Write the checkpoint of a small network as it is before its first step."""
    from sdoml_dist.experiments.latent_space import LatentSpace, LatentSpaceConfig
    from sdoml_dist.training import checkpoint

    config = LatentSpaceConfig.model_validate(
        {
            "name": "small", "output": str(folder), "network": {"latent": 8, "narrowing": 16},
            "data": {
                "store": {"url": dataset}, "channels": CHANNELS, "statistics_samples": 4, "threads": 1,
                "split": {"kind": "blocks", "fractions": {"train": 0.7, "validation": 0.3}, "block": "3h", "gap": "0s"},
            },
        }
    )  # fmt: skip
    experiment = LatentSpace(
        {"config": config.model_dump(mode="json"), "prepared": LatentSpace.prepare(config, folder)}
    )
    network = experiment.model()
    about = experiment.describe() | {
        "step": 0, "finished": False, "metrics": {}, "training": config.training.model_dump(mode="json"),
        "parameters": {"model": sum(one.numel() for one in network.parameters())},
    }  # fmt: skip
    place = folder / "checkpoint_00000000"
    place.mkdir()
    checkpoint.save(place, {"model": network}, {}, about)
    return place
