"""Models for a Triton server: its repository, written here, and what runs in it."""
