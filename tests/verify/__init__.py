"""Tests of classp_jax.verify."""
