"""The record that a run leaves: fields, reading, writing, archives."""
