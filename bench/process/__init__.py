"""What runs inside a measured process, whatever the workload. Standard library only."""
