"""Records as pandas tables: what one would type into a notebook. Usage: python examples/notebook.py results/main."""

import sys

import bench

tables = bench.frame(sys.argv[1])

# A row for each job. How far do the blocks of one arm lie apart?
valid = tables.jobs[tables.jobs.valid]
print(valid.groupby(["allocator", "nodes"]).sec_per_it.agg(["count", "mean", "std"]).round(4))

# A row for each micro-batch. Where do the page faults stop?
steady = tables.micro_batches[tables.micro_batches.steady]
print(steady.groupby("allocator")[["forward_minor_faults", "backward_minor_faults"]].median())

# A row for each arm and number of nodes: reference/arm, so that above 1 is faster.
print(tables.ratios[["arm", "reference", "nodes", "ratio", "ratio_low", "ratio_high", "verdict"]])
