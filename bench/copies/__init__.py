"""The N copies of one command, one for each node, and how they talk."""
