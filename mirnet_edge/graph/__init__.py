"""An ONNX graph as a value: read, measure, rewrite, give a precision."""
