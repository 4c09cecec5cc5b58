"""One file for each command: its exit code and what it prints. The options of all are in `arguments`."""
