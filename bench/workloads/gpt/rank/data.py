"""Batches of tokens, by number."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

from bench.job.job import Data, Model


class Tokens:
    """Batches by number: the same sample for the same number on any rank and host.

    Synthetic tokens are uniform over the vocabulary, from a generator seeded by (seed, sample). A file's bytes are its
    tokens: sample i is the i-th window of S + 1 bytes, starting again at the end.
    """

    def __init__(self, data: Data, model: Model, seed: int):
        self.model, self.seed = model, seed
        self.bytes: Tensor | None = None
        if data.path is not None:
            with open(data.path, "rb") as f:
                mapped = mmap.mmap(
                    f.fileno(), 0, access=mmap.ACCESS_COPY
                )  # copy-on-write: torch wants a writable buffer
            self.bytes = torch.frombuffer(mapped, dtype=torch.uint8)

    def sample(self, number: int) -> Tensor:
        """int64 [S + 1]."""
        length = self.model.sequence + 1
        if self.bytes is not None:
            start = number * self.model.sequence % (self.bytes.numel() - length + 1)
            return self.bytes[start : start + length].long()
        generator = torch.Generator().manual_seed(sample_seed(self.seed, number))
        return torch.randint(self.model.vocabulary, (length,), generator=generator)

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Return tokens and labels, int64 [B, S] each."""
        samples = torch.stack([self.sample(number) for number in numbers])
        return samples[:, :-1].contiguous(), samples[:, 1:].contiguous()


def sample_seed(seed: int, number: int, stage: int = 0) -> int:
    """Return the seed of a sample's tokens, and of its dropout in a stage: of the generator's seed only the lower 32 bits count."""
    return (seed * 1_000_003 + number + stage * 0x9E3779B1) % 2**63
