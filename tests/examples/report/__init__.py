"""Tests of examples/report."""
