"""Benchmarks: data sets with ground truth and the evaluation of a model on them."""
