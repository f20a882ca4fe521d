"""Streams of tasks: Permuted, Rotated and Split MNIST, Split Fashion-MNIST."""
