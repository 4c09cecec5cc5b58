"""Dropout's noise from a counter: the bits depend on a key and on the place in the tensor alone.

`bernoulli_` of PyTorch 1.10 draws one number after another on one core. Here each place has a number of its own, made once, and
a key makes another of it by 32-bit arithmetic that the vector units do on all cores (a shift they do not do in this version, so
there is none). Integers only: the same bits on every host, whatever the number of threads.

The mixing is two rounds of x(2x + 1) mod 2^32, a permutation whose upper bits depend on all lower ones (R. L. Rivest et al.,
"The RC6 block cipher", 1998), behind an odd multiplier and a sum out of the key. The upper 31 bits of it decide.
"""

from __future__ import annotations

import functools
import struct

import torch
from torch import Tensor

SEED = 20211021  # of the numbers of the places: a constant, so that a key means the same everywhere
WORDS = 3  # 32-bit words of a key


@functools.lru_cache(maxsize=4)  # two sizes in a model, 4 bytes a place
def places(numel: int) -> Tensor:
    """int32 [numel], a random number for each place (Mersenne Twister)."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(-(2**31), 2**31, (numel,), dtype=torch.int32, generator=generator)


def keys(count: int) -> list[list[int]]:
    """``count`` keys from PyTorch's generator, whose state a checkpoint puts back for the recomputation."""
    return torch.randint(-(2**31), 2**31, (count, WORDS)).tolist()


def noise_(out: Tensor, dropped: float, key: list[int]) -> Tensor:
    """Fill ``out`` (float32, contiguous) with 0 where a unit is dropped, with probability ``dropped``, else with 1/(1 - dropped).

    Eight passes over it, no block of its own: x(2x + 1) is x + 2 x x, which addcmul does in one.
    """
    threshold = round((1 - dropped) * 2**31)
    (scale,) = struct.unpack("i", struct.pack("f", 2**31 / threshold))  # the bits of a float32
    x = out.view(torch.int32).view(-1)
    multiplier, first, second = key
    torch.add(torch.tensor(first, dtype=torch.int32), places(x.numel()), alpha=multiplier | 1, out=x)
    x.addcmul_(x, x, value=2).add_(second)
    x.addcmul_(x, x, value=2)
    # Below the threshold or not becomes -1 or 0, all bits or none, and with it the bits of the scale or of zero.
    x.bitwise_and_(2**31 - 1).sub_(threshold).clamp_(-1, 0).bitwise_and_(scale)
    return out


def dropout(x: Tensor, dropped: float) -> Tensor:
    """``x`` with units dropped, in place: nobody else may need it."""
    return x.mul_(noise_(torch.empty(x.shape, dtype=torch.float32), dropped, keys(1)[0]))
