"""The report: runs side by side, on one page that needs nothing else."""
