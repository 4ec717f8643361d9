"""Many frames, one after another."""
