"""Tests of examples/models."""
