"""From the arguments of the command line to jobs. Hydra is used here alone."""
