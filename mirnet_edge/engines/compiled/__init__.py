"""A network of PyTorch as an engine of the device: half precision, channels last, compiled, run as
a CUDA graph."""
