"""Session state, windows and model inputs: pure."""
