"""The noise of the lean variant: the same bits everywhere, and nothing in it that chance would not have."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from bench.workloads.gpt.rank import dropout

DROPPED = 0.1
N = 1 << 16
DIGEST = "8b3797bed8701e8c04ed452f340194aaca0a8019fe6f5cb44a6509a8cf25f605"


def noise(key: list[int], numel: int = N, dropped: float = DROPPED) -> torch.Tensor:
    return dropout.noise_(torch.empty(numel), dropped, key)


@pytest.fixture(scope="module")
def masks() -> torch.Tensor:
    """[64, N], standardised: mean 0 and variance 1 if units are dropped with probability 0.1."""
    torch.manual_seed(2)
    kept = torch.stack([noise(key) > 0 for key in dropout.keys(64)]).double()
    return (kept - (1 - DROPPED)) / math.sqrt(DROPPED * (1 - DROPPED))


def test_a_unit_is_dropped_or_scaled() -> None:
    zero, scaled = noise([1, 2, 3]).unique().tolist()
    assert zero == 0.0 and scaled == pytest.approx(1 / 0.9, rel=1e-7)
    assert noise([1, 2, 3], dropped=0.5).unique().tolist() == [0.0, 2.0]


def test_the_same_key_gives_the_same_bits_whatever_the_number_of_threads() -> None:
    """And on every host: the digest is of integers alone."""
    threads = torch.get_num_threads()
    digests = set()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            digests.add(hashlib.sha256(noise([7, -8, 2**31 - 1]).numpy().tobytes()).hexdigest())
    finally:
        torch.set_num_threads(threads)
    assert digests == {DIGEST}


def test_dropout_keeps_the_share_that_chance_would(masks: torch.Tensor) -> None:
    z = masks.mean(1) * math.sqrt(N)  # a standard normal for each key
    assert abs(float(z.mean())) * 8 < 4 and 0.6 < float(z.var()) < 1.6 and float(z.abs().max()) < 4.5


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 1024])
def test_neighbours_know_nothing_of_each_other(masks: torch.Tensor, lag: int) -> None:
    z = (masks[:, :-lag] * masks[:, lag:]).mean(1) * math.sqrt(N)
    assert float(z.abs().max()) < 4.5 and abs(float(z.mean())) * 8 < 4


def test_keys_know_nothing_of_each_other(masks: torch.Tensor) -> None:
    z = (masks @ masks.t() / math.sqrt(N)).triu(1)
    assert float(z.abs().max()) < 5.2  # the largest of 2,016 normals
    places = masks.mean(0) * 8
    assert float(places.var()) == pytest.approx(1.0, abs=0.03), "every place is dropped as often as chance has it"


def test_runs_are_as_long_as_chance_makes_them(masks: torch.Tensor) -> None:
    """Chi-square of 8 successive units as a byte's number of dropped ones, against the binomial distribution."""
    dropped = (masks.view(64, -1, 8) < 0).sum(2).flatten()
    seen = torch.bincount(dropped, minlength=9).double()
    share = torch.tensor([math.comb(8, k) * DROPPED**k * (1 - DROPPED) ** (8 - k) for k in range(9)]).double()
    seen, share = (torch.cat([x[:5], x[5:].sum().view(1)]) for x in (seen, share))
    expected = share * dropped.numel()
    assert float(((seen - expected) ** 2 / expected).sum()) < 25.7  # the 99.99 % point at 5 degrees of freedom


def test_a_gradient_passes_where_a_unit_was_kept() -> None:
    x = torch.ones(1000, requires_grad=True)
    torch.manual_seed(3)
    out = dropout.dropout(x * 1.0, DROPPED)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, out.detach()) and 0 < int((out == 0).sum()) < 200
