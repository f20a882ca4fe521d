"""MNIST, then Fashion-MNIST: the paper's Section 4.1."""
