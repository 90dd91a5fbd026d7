"""Sample data: the drawn catalog, and data modelled on yours."""
