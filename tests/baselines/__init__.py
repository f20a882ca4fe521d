"""Tests of classp_jax.baselines."""
