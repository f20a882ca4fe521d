"""Tests of examples/runner."""
