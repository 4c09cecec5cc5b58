"""The kinds of micro-batch in an iteration: a rank marks them, and the readers of records multiply the middle ones."""

from __future__ import annotations

from collections.abc import Sequence

KINDS = ("first", "settling", "middle", "last")
SETTLING = 2  # how many behind the first are not like the rest


def kind_of(index: int, count: int) -> str:
    """Of micro-batch ``index`` of an iteration of ``count``: `first` makes .grad, `last` synchronises it, and the rest are `middle`
    but for those right behind the first, `settling`.

    The optimizer step gives the gradients' memory back. An allocator hands a part of it to the kernel, or to other sizes, and the
    next micro-batches fault it in again: under tcmalloc two of them take 40 to 300 thousand faults where the later ones take a
    thousand (docs/method.md). Of 1,024 they are two, so that they are measured as what they are and stand for no others.
    """
    if index == count - 1:
        return "last"
    return "first" if index == 0 else "settling" if index <= SETTLING else "middle"


def typical(kinds: Sequence[str], places: Sequence[int]) -> list[int]:
    """Those of ``places`` whose mean is multiplied, and by whose spread a job stops: the middle ones; where iterations are too short to
    have any, those that settle, else the first ones, else all."""
    found = ([i for i in places if kinds[i] == kind] for kind in ("middle", "settling", "first"))
    return next(filter(None, found), list(places))
