"""What the model learns from: images with records, drawn or loaded, and the words around them."""
