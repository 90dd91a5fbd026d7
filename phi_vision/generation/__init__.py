"""Requests to text: batches of mixed requests, sampling, constrained decoding, streaming."""
