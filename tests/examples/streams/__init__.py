"""Tests of examples/streams."""
