"""`python -m tests.differential 100000`, or `python tests/differential 100000`."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from differential.runner import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
