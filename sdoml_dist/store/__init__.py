"""The dataset: template, commits, statistics and reading."""
