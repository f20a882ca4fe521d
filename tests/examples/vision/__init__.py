"""Tests of examples/vision."""
