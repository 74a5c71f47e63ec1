"""Checkpoints of other code."""
