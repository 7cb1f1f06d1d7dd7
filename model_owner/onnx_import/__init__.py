"""ONNX file -> public network + private weights. Start at `compiling.compile_model`."""
