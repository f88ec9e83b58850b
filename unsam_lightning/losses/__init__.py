"""The losses of training, a page each: pure functions of logits and masks, weighted by `objective.py`."""
