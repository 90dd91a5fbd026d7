"""Experiment tracking: W&B, TensorBoard, JSONL, plots."""
