"""The outside world: one module, or a few that share its name, for each system."""
