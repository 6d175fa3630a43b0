"""Published results as experiments: each file has the protocol of one paper, its baselines, metrics and table."""

EXPERIMENTS: dict[str, str] = {
    "latent-space": "sdoml_dist.experiments.latent_space:LatentSpace",
}
"""What ``sdoml train`` knows: the experiment's name, and the class that is imported when it is asked for."""

EVALUATIONS: dict[str, str] = {
    "latent-space": "sdoml_dist.experiments.latent_space_table:evaluate",
}
"""What ``sdoml evaluate`` knows: the experiment's name, and the function that makes its tables and pictures."""
