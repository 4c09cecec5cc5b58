"""What surrounds the jobs of one sweep. Hydra is not imported here: a report needs this and no configuration."""

from dataclasses import dataclass
from typing import Annotated, Optional

from msgspec import Meta


@dataclass(frozen=True)
class Study:
    """How a sweep is arranged, none of which is part of a job."""

    name: str
    shuffle_arms: bool = True
    interleave: str = "auto"  # whether the runs of a block alternate: auto, true, false
    reference: str = "glibc"
    blocks: Optional[str] = None  # "auto": add blocks until the intervals are narrow enough
    blocks_half_width: Annotated[float, Meta(gt=0, le=1)] = 0.04
    blocks_max_minutes: Annotated[float, Meta(gt=0, le=1e6)] = 15.0
    max_minutes: Optional[Annotated[float, Meta(gt=0, le=1e9)]] = None  # of this sweep, after which no job is begun
    html: bool = True  # report.html, whose pictures take seconds to draw, is written at the end
    quiet: bool = False  # these three are options, and no keys: print less of the answer,
    verbose: bool = False  # a line for each run,
    tables: bool = False  # the tables
