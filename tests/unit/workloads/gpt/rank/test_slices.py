from __future__ import annotations

import pytest
import torch

from bench.workloads.gpt.rank.slices import slices


@pytest.mark.parametrize("threads", [1, 3])
def test_each_thread_has_its_rows_and_the_last_slice_what_is_left(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    one, other = torch.arange(14).view(7, 2), torch.arange(7)
    found = list(slices(2, one, other))
    assert [len(part) for part, _ in found] == ([2, 2, 2, 1] if threads == 1 else [6, 1])
    for whole, parts in zip((one, other), zip(*found)):
        assert torch.equal(torch.cat(parts), whole)
        assert parts[0].data_ptr() == whole.data_ptr(), "a view, so that what is written in it is written in the whole"
