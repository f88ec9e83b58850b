"""Stage 1: mask-granularity pairs discovered without labels, by granularity-aware divide-and-conquer."""
