"""The Ranker, its training and its export."""
