"""What can be run under each allocator: a folder each."""
