"""TensorRT: plans built, read and run; what it says of them. The only modules that call it."""
