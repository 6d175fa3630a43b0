"""Published results as experiments: each file has the protocol of one paper, its baselines, metrics and table."""
