"""`python -m phi_vision`: the command line, also from a checkout that is not installed."""

import sys

from phi_vision.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
