"""Where things are: the only module that looks at its own place."""

from __future__ import annotations

import os
from pathlib import Path

from bench.job.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parent.parent
CONF = CHECKOUT / "conf"
PUBLISHED = CONF / "reference" / "published.csv"
TEMPLATES = CHECKOUT / "bench" / "templates"


def given_path(text: str) -> Path:
    """Return the path that somebody typed; a quoted ~ is the home folder. Raises ConfigError where no such user has one."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ConfigError(
            f"{text}: {path.partition('/')[0]} has no home folder here: write ./{path} for a folder of that name."
        )
    return Path(path)


def results_directory() -> Path:
    """Return $BENCH_OUT, else ./results. Raises ConfigError."""
    return given_path(os.environ.get("BENCH_OUT") or "results").absolute()
