from __future__ import annotations

import sys

from bench.paths import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "validation"))  # as validation/__main__.py does for its parts
