"""Models behind HTTP: pictures in, restored pictures out, and the inference protocol of others."""
