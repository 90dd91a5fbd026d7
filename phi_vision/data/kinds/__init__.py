"""One module for each kind of field: how it is written, parsed, constrained, scored and guessed."""
