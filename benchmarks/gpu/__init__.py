"""What the full-size model reaches on one GPU, part by part: see `__main__`."""

import time

STARTED = time.perf_counter()
"""Before the imports that take seconds."""
