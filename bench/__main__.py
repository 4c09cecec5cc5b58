"""The command line, started by `python -m bench` and `mallocost`."""

import sys

from bench.cli import main
from bench.host.interrupt import ignore_signals

if __name__ == "__main__":
    code = main(sys.argv[1:])
    ignore_signals()
    sys.exit(code)
