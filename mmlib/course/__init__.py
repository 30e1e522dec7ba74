"""What only the course needs; nothing of the package imports it."""
