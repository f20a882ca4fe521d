"""Tests of examples/sentiment."""
