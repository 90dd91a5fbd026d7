"""How it learns: a recipe becomes a model, an adapter and a run."""
