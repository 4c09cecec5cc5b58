"""The job, its identity, its checks and the sampling plan.

A rank reads it under another interpreter, so all but `checks` needs the standard library alone.
"""
