"""Metrics: pure functions of predictions, with bootstrap intervals and calibration."""
