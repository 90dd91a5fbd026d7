"""The sample catalogue: a fashion house that does not exist, its products, pictures and records."""
