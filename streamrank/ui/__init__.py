"""What people look at while it runs."""
