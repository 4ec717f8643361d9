"""Means over a frame that its tiles share."""
