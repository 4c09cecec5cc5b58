"""Level 5. From numbers to paper: words, tables, pictures, pages.

Imports bench.statistics and below.
"""
