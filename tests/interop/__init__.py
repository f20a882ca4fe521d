"""Tests of classp_jax.interop."""
