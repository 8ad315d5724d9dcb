"""How good the lists are: metrics, and how far they can be trusted."""
