"""Product images, drawn as vector graphics."""
