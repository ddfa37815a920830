"""OPA's time built-ins on integers of nanoseconds since 1970, as Go's time package computes them.

UTC only, but for reading the clock or the date in a zone of the IANA database. What Go's parser takes out of
leniency (one digit hours, a comma) is refused: closed is better than alike.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agentgate.adapters.policy._rego import Number, RegoValue

_SECOND_NS: Final = 1_000_000_000
_MIN_NS: Final = -(2**63)
_MAX_NS: Final = 2**63 - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def parse_rfc3339_ns(text: str) -> int:
    """Raises ValueError."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    offset = timedelta()
    if found[8]:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            raise ValueError("no such offset")
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if found[8] == "-" else 1)
    moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset))
    nanoseconds = int((found[7] or "").ljust(9, "0"))
    return _in_range(_whole_seconds(moment) * _SECOND_NS + nanoseconds)


def clock(moment: RegoValue) -> tuple[int, int, int]:
    at = _local(moment)
    return at.hour, at.minute, at.second


def date(moment: RegoValue) -> tuple[int, int, int]:
    at = _local(moment)
    return at.year, at.month, at.day


def weekday(moment: RegoValue) -> str:
    return _DAYS[_local(moment).weekday()]


def add_date(moment: RegoValue, years: int, months: int, days: int) -> int:
    """Go's Time.AddDate: a day that the month lacks runs over into the next (Oct 31 + 1 month = Dec 1)."""
    nanoseconds, zone = _moment(moment)
    if zone is not UTC:
        raise ValueError("time.add_date is offered for UTC alone")
    seconds, rest = divmod(nanoseconds, _SECOND_NS)
    at = _EPOCH + timedelta(seconds=seconds)
    month_index = (at.year + years) * 12 + at.month - 1 + months
    first = at.replace(year=month_index // 12, month=month_index % 12 + 1, day=1)
    return _in_range(_whole_seconds(first + timedelta(days=at.day - 1 + days)) * _SECOND_NS + rest)


def _local(moment: RegoValue) -> datetime:
    nanoseconds, zone = _moment(moment)
    return (_EPOCH + timedelta(seconds=nanoseconds // _SECOND_NS)).astimezone(zone)


def _moment(value: RegoValue) -> tuple[int, tzinfo]:
    """A number of nanoseconds, or [nanoseconds, zone]."""
    match value:
        case Number(text):
            return _in_range(int(text)), UTC
        case (Number(text), str(zone)):
            return _in_range(int(text)), _zone(zone)
    raise ValueError("neither a number of nanoseconds nor [nanoseconds, zone]")


def _zone(name: str) -> tzinfo:
    if name in {"", "UTC"}:
        return UTC
    if name in {"Local", "localtime"}:
        raise ValueError("the zone of the host is not offered")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"no zone {name[:64]!r}") from error


def _whole_seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _in_range(nanoseconds: int) -> int:
    if not _MIN_NS <= nanoseconds <= _MAX_NS:
        raise ValueError("time outside of the valid range")
    return nanoseconds
