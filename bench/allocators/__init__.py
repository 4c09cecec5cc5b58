"""Allocators as the driver sees them: catalogue, library, environment, retention."""
