"""Reading ONNX files: a strict protobuf reader of its own, with no dependency on ``onnx``.

``proto.open_model`` reads a file into the plain structures of ``defs``; ``tensors.to_array`` turns
one stored tensor into a NumPy array. Nothing here looks at what an operator means.
"""
