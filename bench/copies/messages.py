"""The messages between two copies, validated as they arrive: the other copy may be of another version, or a stranger's where the
secret is a weak one (`wire.Secret`). A peer that sends any other message is dropped. Jobs, hosts and parts of a record are validated
where they are used."""

from typing import Annotated, Any, Optional, Union

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_NODES = 1 << 20
Count = Annotated[int, Meta(ge=0, lt=MAX_NODES)]
Number = Annotated[str, Meta(pattern=r"^[0-9]{1,7}\Z")]  # of a rank: JSON makes keys texts
Group = dict[str, Any]


class Message(Struct, tag_field="do"):
    pass


class OfRun(Message):
    """A message about one run of a block."""

    run: Count


class Facts(Struct):
    hostname: str
    cpu: Group = {}


class Ready(Struct):
    rank: Count
    hostname: str
    alike: Group


class Trained(Struct):
    rank: Count


class Store(OfRun, tag="store"):
    """What a rank publishes (rank/orders.py): a value as hexadecimal digits, or a number to add."""

    key: str
    value: Union[Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z")], UnsetType] = UNSET
    add: Union[int, UnsetType] = UNSET

    def __post_init__(self) -> None:
        if self.value is UNSET and self.add is UNSET:
            raise ValueError("it stores nothing")


Welcome, End = (msgspec.defstruct(word.capitalize(), [], bases=(Message,), tag=word) for word in ("welcome", "end"))
Turn, Go, Leave, Kill, Waits = (
    msgspec.defstruct(word.capitalize(), [], bases=(OfRun,), tag=word)
    for word in ("turn", "go", "leave", "kill", "waits")
)


class Refuse(Message, tag="refuse"):
    why: str


class Run(Message, tag="run"):
    jobs: Annotated[list[Group], Meta(min_length=1)]


class Hello(Message, tag="hello"):
    node_rank: Count
    facts: Facts
    same: Group
    refused: Optional[str]


class Beat(OfRun, tag="beat"):
    done: dict[Number, Count]


class AllReady(OfRun, tag="ready"):
    ranks: Annotated[list[Ready], Meta(min_length=1)]


class Told(OfRun, tag="told"):
    parts: list[Trained]


class Done(OfRun, tag="done"):
    error: Optional[str]
    warnings: list[str]
    logs: Optional[dict[Number, str]] = None


BY_LEADER: Any = Union[Welcome, Refuse, Run, Turn, Store, Go, Leave, Kill, End]
BY_FOLLOWER: Any = Union[Hello, Store, Beat, Waits, AllReady, Told, Done]


def is_message(value: Any, by_leader: bool) -> bool:
    """Return whether a copy that leads, or one that follows, may send this."""
    try:
        msgspec.convert(value, BY_LEADER if by_leader else BY_FOLLOWER)
    except (msgspec.ValidationError, UnicodeError, RecursionError):  # of half a character, which JSON can name
        return False
    return True
