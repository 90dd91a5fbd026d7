"""Any source to a clean dataset."""
