"""How `phi-vision-small` is made: an invented market, its pictures, its words, and the training."""
