"""Training: data loading, the loop, checkpoints, and Ray Train around them."""
