"""Predictors (checkpoint, ONNX, OpenAI-compatible server, file) and batch prediction."""
