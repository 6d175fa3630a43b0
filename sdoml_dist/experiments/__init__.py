"""Published results as experiments: each file has the protocol of one paper, its baselines, metrics and table."""

EXPERIMENTS: dict[str, str] = {
    "emergence-forecast": "sdoml_dist.experiments.emergence_forecast:EmergenceForecast",
    "latent-space": "sdoml_dist.experiments.latent_space:LatentSpace",
    "far-side": "sdoml_dist.experiments.far_side:FarSide",
}
"""What ``sdoml train`` knows: the experiment's name, and the class that is imported when it is asked for."""

EVALUATIONS: dict[str, str] = {
    "emergence-forecast": "sdoml_dist.experiments.emergence_table:evaluate",
    "latent-space": "sdoml_dist.experiments.latent_space_table:evaluate",
    "far-side": "sdoml_dist.experiments.far_side:evaluate",
}
"""What ``sdoml evaluate`` knows: the experiment's name, and the function that makes its tables and pictures."""
