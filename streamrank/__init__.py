"""StreamRank: lists that re-rank themselves while people act."""

__version__ = "0.1.0"
