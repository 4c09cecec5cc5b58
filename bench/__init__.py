"""What a memory allocator costs CPU training, measured so that the answer can be believed."""

__version__ = "0.1.0"
