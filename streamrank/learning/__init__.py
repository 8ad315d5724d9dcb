"""Feedback, examples and what is learned from them: pure, with `model`."""
