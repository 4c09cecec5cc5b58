"""From records to numbers: intervals, pairs, cause, comparison. No formatting, no files."""
