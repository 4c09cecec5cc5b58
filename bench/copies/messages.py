"""What the copies may say to each other, checked as it arrives: the other copy may be of another version, or where the secret is a
weak one (`wire.Secret`) somebody else. Who says anything else is no copy of this job, and is treated as one that is gone.

Jobs, hosts and parts of a record have doors of their own (`schema.checks`, `schema.shape`), which name what is wrong.
"""

from __future__ import annotations

from typing import Any, Callable

MAX_NODES = 1 << 20
Kind = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_text_or_none(value: Any) -> bool:
    return value is None or is_text(value)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_NODES


def is_group(value: Any) -> bool:
    return isinstance(value, dict)


def is_hex(value: Any) -> bool:
    return is_text(value) and len(value) % 2 == 0 and set(value) <= set("0123456789abcdef")


def list_of(kind: Kind) -> Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def group_of(**keys: Kind) -> Kind:
    """With these keys at least."""
    return lambda value: is_group(value) and all(key in value and kind(value[key]) for key, kind in keys.items())


def by_number(kind: Kind) -> Kind:
    """Keys are numbers of ranks, which JSON makes texts."""
    return lambda value: (
        is_group(value)
        and all(key.isdecimal() and key.isascii() and len(key) < 8 and kind(value[key]) for key in value)
    )


def is_facts(value: Any) -> bool:
    return group_of(hostname=is_text)(value) and is_group(value.get("cpu", {}))


def is_stored(message: Any) -> bool:
    """What a rank publishes (rank/orders.py): a value as hexadecimal digits, or a number to add."""
    value = type(message["add"]) is int if "add" in message else is_hex(message.get("value"))
    return is_text(message.get("key")) and value


IS_READY = group_of(rank=is_count, hostname=is_text, alike=is_group)
BY_LEADER: dict[str, Kind] = {
    "welcome": is_group,
    "refuse": group_of(why=is_text),
    "run": group_of(job=is_group),
    "store": is_stored,
    "go": is_group,
    "leave": is_group,
    "kill": is_group,
    "end": is_group,
}
BY_FOLLOWER: dict[str, Kind] = {
    "hello": group_of(node_rank=is_count, facts=is_facts, same=is_group, refused=is_text_or_none),
    "store": is_stored,
    "beat": group_of(done=by_number(is_count)),
    "ready": lambda message: bool(message.get("ranks")) and list_of(IS_READY)(message["ranks"]),
    "told": group_of(parts=list_of(group_of(rank=is_count))),
    "done": lambda message: (
        group_of(error=is_text_or_none, warnings=list_of(is_text))(message)
        and by_number(is_text)(message.get("logs") or {})
    ),
}


def is_message(value: Any, by_leader: bool) -> bool:
    """Whether a copy that leads, or one that follows, may say this."""
    if not is_group(value) or not is_text(value.get("do")):
        return False
    kind = (BY_LEADER if by_leader else BY_FOLLOWER).get(value["do"])
    return kind is not None and kind(value)
