"""Rows at a time, so that what one operation wrote is still in the cache when the next one wants it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def slices(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """``rows`` for each thread, of all ``tensors`` at once, by their first dimension: each core has a cache of its own, and works on its
    own rows. The same bits however many threads there are."""
    return zip(*(x.split(rows * torch.get_num_threads()) for x in tensors))
