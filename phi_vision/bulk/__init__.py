"""A whole catalogue becomes a table of predictions, row by row, on one machine or many."""
