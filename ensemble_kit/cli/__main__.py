"""``python -m ensemble_kit.cli``."""

import sys

from ensemble_kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
