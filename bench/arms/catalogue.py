"""Every arm that can be named: conf/allocator and $BENCH_CONF."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import OmegaConf

from bench.config.typed import typed
from bench.paths import CONF
from bench.schema.job import Allocator


def arms() -> list[Allocator]:
    """Every arm of conf/allocator and of $BENCH_CONF."""
    extra = os.environ.get("BENCH_CONF")
    folders = [CONF / "allocator"] + ([Path(extra) / "allocator"] if extra else [])
    return [
        typed(Allocator, OmegaConf.load(path), path.stem)
        for folder in folders
        for path in sorted(folder.glob("*.yaml"))
    ]
