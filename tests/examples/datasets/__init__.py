"""Tests of examples/datasets."""
