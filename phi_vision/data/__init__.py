"""What the model learns from: pictures with records, drawn or loaded, and the words around them."""
