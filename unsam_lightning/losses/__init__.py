"""The three losses of stage 2: one loss, one page, pure functions."""
