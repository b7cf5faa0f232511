"""Training: recipes, data, the loop and its checkpoints. Nothing that serves imports it."""
