"""Training: which samples there are, their order, how they are read, and the loop that experiments share."""
