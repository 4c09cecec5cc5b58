"""A sweep: the order of its runs, what is answered already, the plan, the loop, progress."""
