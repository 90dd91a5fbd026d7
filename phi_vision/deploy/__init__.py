"""How it works for a living: from a checkpoint to answers."""
