"""What all tests start from."""

from __future__ import annotations

import signal

# A shell ignores SIGINT in what it starts in the background, so that `make test &` would fail each test that sends one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
