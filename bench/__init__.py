"""What a memory allocator costs CPU training, measured so that the answer can be believed."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`bench.frame(DIR)`, whose modules are imported when it is asked for: a rank imports this package too."""
    if name == "frame":
        from importlib import import_module

        return import_module("bench.report.frame").frame
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
