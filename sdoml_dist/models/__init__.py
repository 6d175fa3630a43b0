"""Networks, losses and channel transforms: plain PyTorch, one file per architecture."""
