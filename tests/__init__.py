"""Tests; they mirror classp_jax and examples."""
