"""Hydra finds plugins in packages of this name only. All that is ours is in bench/sweep.py."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig


class BlockSweeper(Sweeper):
    """``hydra/sweeper=block``, the default of conf/config.yaml."""

    def __init__(self, params: dict[str, str] | None = None):
        self.params = params or {}

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        from bench.config import compose
        from bench.driver import sweep  # not before it is needed: Hydra loads every plugin for every command

        assert self.config is not None
        study, jobs = compose.jobs_of(arguments, self.params, self.context, self.config)
        raise SystemExit(sweep.run(study, jobs))
