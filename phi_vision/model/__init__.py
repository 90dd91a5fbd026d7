"""Phi-3-Vision on transformers' CLIP and Phi-3 modules. Imports no other package of ours."""
