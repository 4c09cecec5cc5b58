"""What can be run under each allocator: a folder each, behind the interface in `workload`. `catalogue` has all of them.

Neither this file nor that of a workload's folder imports anything: a measured process imports them too.
"""
