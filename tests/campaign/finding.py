"""What the program made of one file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one file, and the laws that it broke."""

    outcome: str
    """In words that are counted: `exit 3`, or what a success is compared with."""
    faults: tuple[str, ...] = ()
