"""Level 0. Every process reads it: the job, the record, the kernel's lists, the errors.

Imports the standard library only.
"""
