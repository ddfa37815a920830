"""Lengths of time, counts and names, as a person would say them."""

from __future__ import annotations

from datetime import datetime


def plain(text: object) -> str:
    """`text` in one line, without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else "·" for char in str(text))


def duration(seconds: float) -> str:
    """A length of time as a person would say it."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for unit, length, until in (("s", 1, 100), ("min", 60, 5_400), ("h", 3_600, 172_800)):
        if seconds < until:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def ago(seconds: float) -> str:
    if seconds < 2:
        return "just now"
    return f"{seconds:.0f} s ago" if seconds < 10 else f"{duration(seconds)} ago"


def milliseconds(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms" if ms < 1_000 else duration(ms / 1_000)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def named(tenant: str, name: str) -> str:
    """A name with its tenant, where that is not the usual one."""
    return plain(name) if tenant in ("", "default") else f"{plain(tenant)}/{plain(name)}"


def seconds_since(instant: object, now: datetime) -> float:
    """Of an RFC 3339 time; 0 for what is none."""
    try:
        return (now - datetime.fromisoformat(str(instant))).total_seconds()
    except (ValueError, TypeError):
        return 0.0
