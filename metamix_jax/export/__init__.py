"""The way out of the package: an integer program of a trained network, its evaluator, ONNX and StableHLO files."""
