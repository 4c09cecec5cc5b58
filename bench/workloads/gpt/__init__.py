"""The GPT that this project trains: starting its ranks, and its figures."""
