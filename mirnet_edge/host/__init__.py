"""The way of a frame through NumPy."""
