"""The networks that the experiments train, each of a file, in Flax NNX.

A file here that has a ``MODEL``, a :class:`examples.models.registry.Model`, can be
trained on any stream of images: ``python -m examples.streams --model``.
"""
