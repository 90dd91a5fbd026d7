"""How a catalogue of any kind becomes Samples: read, fetched, cleaned, grouped, nothing lost."""
