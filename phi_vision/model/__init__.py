"""What the model is: Phi-3-Vision on transformers' CLIP and Phi-3 parts. Knows no other room."""
