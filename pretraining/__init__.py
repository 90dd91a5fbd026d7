"""Pre-training of `phi-vision-small`: synthetic images and conversations, tokenizer, training."""
