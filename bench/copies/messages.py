"""The messages between two copies, validated as they arrive.

The other copy may be of another version, or a stranger's where the secret is a weak one (`wire.Secret`): a peer that sends any other
message is dropped. Jobs, hosts and parts of a record are validated where they are used.
"""

from functools import partial
from typing import Annotated, Any, Optional, Union

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bench.job.checks import MOST_NODES

Count = Annotated[int, Meta(ge=0, lt=MOST_NODES)]
Number = Annotated[str, Meta(pattern=r"^[0-9]{1,7}\Z")]  # of a rank: JSON makes keys texts
Group = dict[str, Any]


class Facts(Struct):
    hostname: str
    cpu: Group = {}


class Rank(Struct):
    rank: Count


class ReadyRank(Rank):
    hostname: str
    alike: Group


class Message(Struct, tag_field="do", tag=str.lower):
    pass


class OfRun(Message):
    run: Count  # of a block


class Store(OfRun):
    """What a rank publishes (rank/orders.py): a value as hexadecimal digits, or a number to add."""

    key: str
    value: Union[Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z")], UnsetType] = UNSET
    add: Union[int, UnsetType] = UNSET

    def __post_init__(self) -> None:
        if self.value is UNSET and self.add is UNSET:
            raise ValueError("it stores nothing")


message: Any = partial(msgspec.defstruct, bases=(Message,))
of_run: Any = partial(msgspec.defstruct, bases=(OfRun,))
BY_LEADER: Any = Union[
    message("Refuse", [("why", str)]),
    message("Run", [("jobs", Annotated[list[Group], Meta(min_length=1)])]),
    message("Finish", []),
    Store,
    of_run("Go", []),
    of_run("Turn", []),
    of_run("End", []),
    of_run("Kill", []),
]
BY_FOLLOWER: Any = Union[
    message("Hello", [("node_rank", Count), ("facts", Facts), ("same", Group), ("refused", Optional[str])]),
    Store,
    of_run("Beat", [("done", dict[Number, Count])]),
    of_run("Ready", [("ranks", Annotated[list[ReadyRank], Meta(min_length=1)])]),
    of_run("Waits", []),
    of_run("Sent", [("ranks", list[Rank])]),
    of_run("Done", [("error", Optional[str]), ("warnings", list[str]), ("logs", Optional[dict[Number, str]], None)]),
]


def is_message(value: Any, by_leader: bool) -> bool:
    """Return whether a copy that leads, or one that follows, may send this."""
    try:
        msgspec.convert(value, BY_LEADER if by_leader else BY_FOLLOWER)
    except (msgspec.ValidationError, UnicodeError, RecursionError):  # of half a character, which JSON can name
        return False
    return True
