"""What can be typed: one file for each command, with its options and what it prints."""
