"""PyTorch twins, written from the paper."""
