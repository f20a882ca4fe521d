"""Tests of examples/methods."""
