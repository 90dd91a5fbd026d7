"""Evaluation of a predictor: predictions, ablations, baselines, report."""
