"""What every package needs from the outside world: atomic files, HTTP, hashing, formatting."""
