"""How `phi-vision-small` is made: an invented market, its images, its words, and the training."""
