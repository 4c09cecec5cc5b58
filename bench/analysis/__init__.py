"""Level 4. From records to numbers. Runs in the driver and in readers of records.

Imports bench.arms and below; no formatting, no files.
"""
