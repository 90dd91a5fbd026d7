"""A run becomes a folder that another engine opens, proven before it bears its name."""
