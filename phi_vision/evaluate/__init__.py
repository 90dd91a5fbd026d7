"""How we know: pure functions of generated text. Runs without torch."""
