"""Arguments that several commands take, and the values that they may have."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def positive_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def share(text: str) -> float:
    """3% or 0.03, as 0.03."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 3% or 0.03")
    return value


def positive_whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def add_directories(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="+",
        type=Path,
        help=f"results folders, packs, or folders of packs; {what} written into the first",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output instead (docs/json.md has its words)"
    )


def add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference", default="glibc", metavar="ARM", help="the arm that the others are compared with (default: glibc)"
    )


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=positive_number,
        default=0.05,
        metavar="SHARE",
        help="how far apart two ratios may be (default: %(default)s)",
    )
