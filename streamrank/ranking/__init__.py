"""Scores in, ranked lists out: pure."""
