"""One reader for each annotation layout; each gives `EvalSample`s."""
