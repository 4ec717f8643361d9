"""Files in, restored files out: which, where to, and how one of them is restored."""
