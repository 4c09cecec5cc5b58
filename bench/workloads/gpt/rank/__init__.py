"""The training process, started by the driver and never imported by it.

Imports torch, the standard library and bench.job only.
"""
