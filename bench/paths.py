"""Where things are: the only module that looks at its own place."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CONF = CHECKOUT / "conf"
PUBLISHED = CONF / "reference" / "published.csv"
TEMPLATES = CHECKOUT / "bench" / "templates"


def results_directory() -> Path:
    """$BENCH_OUT, else ./results."""
    return Path(os.environ.get("BENCH_OUT") or "results").absolute()
