"""Level 7. One file a command: its arguments, and what it prints.

Imports everything below; only bench.cli imports it.
"""
