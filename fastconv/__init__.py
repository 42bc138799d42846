"""fastconv: a CPU inference engine for ONNX convolutional networks."""

__version__ = "0.1.0"
