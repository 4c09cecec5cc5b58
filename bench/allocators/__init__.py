"""Level 3. Allocators as the driver sees them: catalogue, library, environment, self-test.

Imports bench.config and below.
"""
