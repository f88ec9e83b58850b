"""Metrics equal to the reference evaluators of the field: pure functions, and thin classes that add them up."""
