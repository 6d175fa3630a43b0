"""Published results as experiments: each file has the protocol of one paper, its baselines, metrics and table."""

EXPERIMENTS: dict[str, str] = {
    "denoising": "sdoml_dist.experiments.denoising:Denoising",
    "emergence-forecast": "sdoml_dist.experiments.emergence_forecast:EmergenceForecast",
    "latent-space": "sdoml_dist.experiments.latent_space:LatentSpace",
    "far-side": "sdoml_dist.experiments.far_side:FarSide",
    "hmi-to-aia": "sdoml_dist.experiments.hmi_to_aia:HmiToAia",
    "galileo": "sdoml_dist.experiments.galileo:Galileo",
}
"""What ``sdoml train`` knows: the experiment's name, and the class that is imported when it is asked for."""

EVALUATIONS: dict[str, str] = {
    "denoising": "sdoml_dist.experiments.denoising_table:evaluate",
    "emergence-forecast": "sdoml_dist.experiments.emergence_table:evaluate",
    "latent-space": "sdoml_dist.experiments.latent_space_table:evaluate",
    "far-side": "sdoml_dist.experiments.far_side:evaluate",
    "hmi-to-aia": "sdoml_dist.experiments.hmi_to_aia:evaluate",
    "galileo": "sdoml_dist.experiments.galileo:evaluate",
}
"""What ``sdoml evaluate`` knows: the experiment's name, and the function that makes its tables and pictures."""

APPLICATIONS: dict[str, str] = {
    "denoising": "sdoml_dist.experiments.denoising_table:Denoiser",
    "far-side": "sdoml_dist.experiments.translation_apply:Translator",
    "hmi-to-aia": "sdoml_dist.experiments.translation_apply:Translator",
    "galileo": "sdoml_dist.experiments.translation_apply:Translator",
}
"""What ``sdoml apply`` knows: the experiment's name, and what is called with the folder of a checkpoint and a device to give a
:class:`sdoml_dist.pipelines.apply.Applied`."""
