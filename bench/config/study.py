"""What surrounds the jobs of one sweep. Hydra is not imported here: a report needs this and no configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Study:
    """What surrounds the jobs of one sweep."""

    name: str
    shuffle_arms: bool = True
    interleave: str = "auto"  # whether the runs of a block alternate: auto, true, false
    reference: str = "glibc"
    blocks: str | None = None  # "auto": add blocks until the intervals are narrow enough
    blocks_half_width: float = 0.04
    blocks_max_minutes: float = 15.0
    max_minutes: float | None = None  # no job is begun after so many minutes of this sweep
    html: bool = True  # report.html, whose pictures take seconds to draw, is written at the end
