"""A user's program, measured from outside."""
