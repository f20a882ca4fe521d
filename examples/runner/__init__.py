"""Trains methods on tasks, one after the other, and writes a row of results a seed."""
