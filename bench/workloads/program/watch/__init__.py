"""Level 1. The process between the driver and a user's program: starts it, watches its tree, ends all of it.

Imports bench.job, what bench.workloads.gpt.rank has without torch, and the standard library.
"""
