"""Level 1. What a machine is and how busy it is. Runs in the driver and in readers of records.

Imports bench.job and bench.paths.
"""
