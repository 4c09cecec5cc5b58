"""Level 6. One command on N nodes: order, resume, start of the ranks, the connection between the copies.

Imports bench.report and below; starts bench.workloads.gpt.rank and never imports it.
"""
