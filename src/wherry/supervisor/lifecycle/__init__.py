"""What begins, changes and ends containers."""
