"""Training: recipes, adapters, checks, trainer, checkpoints, memory estimate."""
