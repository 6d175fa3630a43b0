"""The Ray side of batch work."""
