"""Sources: one reader per format."""
