"""What an engine is, and each kind that needs no GPU."""
