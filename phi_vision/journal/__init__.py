"""What a run writes down while it goes: log, plots, and a tracker on request."""
