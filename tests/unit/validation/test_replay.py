"""validation/replay.py: what it takes from a training's record."""

from __future__ import annotations

import replay


def test_each_iteration_of_a_training_is_one_draw_of_its_first_micro_batches() -> None:
    """Two iterations of six after four micro-batches of warm-up; the sixth is beyond the trace."""
    faults = [9, 9, 9, 9, *[1, 2, 3, 4, 5, 99], *[11, 12, 13, 14, 15, 99]]
    columns = {
        f"{half}_{name}": faults for half in ("forward", "backward") for name in ("minor_faults", "system_seconds")
    }
    rank = {"micro_batches": {**columns, "kind": [""] * len(faults)}, "peak_rss_bytes": 2 << 20}
    record = {"job": {"measure": {"iteration_micro_batches": 6}}, "ranks": [rank]}
    assert replay.trained(record) == [replay.Costs(6, 6, 2), replay.Costs(26, 26, 2)]
