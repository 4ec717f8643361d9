"""A source beside what a model makes of it, as it goes on: in a browser or a window."""
