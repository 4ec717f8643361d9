"""How a frame is cut into tiles."""
