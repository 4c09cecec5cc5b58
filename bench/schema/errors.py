"""Errors that a user can cause: one sentence each, with the key, the value and the way out."""

from __future__ import annotations


class RecordError(ValueError):
    """One sentence: which file, what is wrong with it."""


class ConfigError(ValueError):
    """One sentence for the user; exit code 2."""


class AllocatorError(RuntimeError):
    """One sentence: what is missing or not as asked, and the way out."""
