"""One reader for each annotation layout; each gives `EvalSample`s or `EvalVideo`s.

Next in the tour: `benchmarks/open_reader.py`.
"""
