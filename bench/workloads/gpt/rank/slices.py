"""Rows at a time, so that what one operation wrote is still in the cache when the next one wants it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def slices(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``rows`` for each thread, of all ``tensors`` at once, by their first dimension.

    Each core has a cache of its own, and works on its own rows. The bits are the same for any number of threads.
    """
    return zip(*(x.split(rows * torch.get_num_threads()) for x in tensors))
