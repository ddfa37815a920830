"""Sending OTLP to a collector: one request for each line of an export, tried again as OTLP/HTTP says."""

from __future__ import annotations

import json
import re
import time
from typing import Final
from urllib.parse import unquote

import httpx

from agentgate import settings as configuration
from agentgate.commands.remote import fits_header, host_of

_PATH: Final = "/v1/logs"
_AGAIN: Final = frozenset({429, 502, 503, 504})
_TRIES: Final = 6
_LONGEST_WAIT_S: Final = 30.0


class NotTaken(Exception):
    """The collector did not take a request, and it is of no use to ask again."""


class Collector:
    """An OpenTelemetry collector. Headers come from OTEL_EXPORTER_OTLP_HEADERS, as for every exporter."""

    def __init__(self, endpoint: str) -> None:
        """Raises ValueError with a sentence when `endpoint` or the headers are none."""
        if host_of(endpoint) is None:
            raise ValueError(f"{endpoint!r} is not a URL of a collector, such as http://127.0.0.1:4318")
        parsed = httpx.URL(endpoint)
        path = parsed.path.rstrip("/")
        self.url = str(parsed.copy_with(path=path if path.endswith(_PATH) else path + _PATH))
        self.taken = 0
        headers = {"Content-Type": "application/json", **_headers()}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(30.0, connect=5.0))

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def take(self, request: bytes) -> None:
        """Hand over one request. Raises NotTaken."""
        why = ""
        for attempt in range(_TRIES):
            try:
                response = self._client.post(self.url, content=request)
            except httpx.DecodingError:
                raise NotTaken("its answer is not packed as it says") from None
            except httpx.TransportError as error:
                why, wait_s = str(error) or type(error).__name__, 2.0**attempt / 2
            else:
                if response.status_code < 300:
                    self._count(request, response)
                    return
                why = f"HTTP {response.status_code}"
                if response.status_code not in _AGAIN:
                    break
                after = response.headers.get("Retry-After", "")
                wait_s = float(after) if after.isdecimal() else 2.0**attempt / 2
            if attempt + 1 < _TRIES:
                time.sleep(min(wait_s, _LONGEST_WAIT_S))
        raise NotTaken(why)

    def _count(self, request: bytes, response: httpx.Response) -> None:
        """A collector may take a part: what it rejects is not worth another try, but has to be said."""
        try:
            partial = response.json().get("partialSuccess") or {}
            rejected, message = int(partial.get("rejectedLogRecords") or 0), partial.get("errorMessage", "")
        except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):  # an empty answer is all right
            rejected, message = 0, ""
        if rejected:
            raise NotTaken(f"it rejected {rejected} events: {message}")
        resources = json.loads(request)["resourceLogs"]
        self.taken += sum(len(scope["logRecords"]) for one in resources for scope in one["scopeLogs"])


def _headers() -> dict[str, str]:
    given = configuration.environment().get("OTEL_EXPORTER_OTLP_HEADERS", "")
    found = {}
    for part in given.split(","):
        name, is_one, value = part.partition("=")
        if part.strip() and not is_one:
            raise ValueError("OTEL_EXPORTER_OTLP_HEADERS is name=value,name=value")
        if is_one:
            found[name.strip()] = unquote(value.strip())
    for name, value in found.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise ValueError(f"OTEL_EXPORTER_OTLP_HEADERS: {name!r} is not the name of a header")
        if not fits_header(value):
            raise ValueError(f"OTEL_EXPORTER_OTLP_HEADERS: the value of {name} has characters that no header has")
    return found
