"""Level 2. From words to a Job: Hydra lives here and nowhere else. Runs in the driver.

Imports bench.host and below.
"""
