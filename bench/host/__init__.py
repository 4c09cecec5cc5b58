"""What a machine is, how busy it is, and whether two are alike."""
