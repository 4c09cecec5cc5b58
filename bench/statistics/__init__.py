"""Level 4. From records to numbers. Runs in the driver and in readers of records.

Imports bench.allocators and below; no formatting, no files.
"""
