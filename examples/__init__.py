"""Experiments with classp_jax; a folder an experiment, what they share beside them."""
