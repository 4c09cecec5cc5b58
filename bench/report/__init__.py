"""From numbers to text, tables, pictures and files."""
