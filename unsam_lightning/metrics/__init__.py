"""Metrics equal to the reference evaluators of the field: pure functions."""
