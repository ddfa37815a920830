"""A gateway that answers what a test wrote down, for clients of the control routes.

    with ScriptedGateway({"POST /kills": [(202, {...})], "GET /kills/k": [(202, {...}), (200, {...})]}) as gateway:
        run(gateway.url)
        assert gateway.asked == [("POST", "/kills", {...}), …]

The last answer to a request is given again for ever. `SILENCE` takes the request and says nothing until the end;
`HANG_UP` takes it and closes the connection.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from tests.web import Handler, serving

SILENCE = (0, {})
HANG_UP = (-1, {})
Said = tuple[int, Any]


def problem(status: int, reason: str, detail: str) -> Said:
    return status, {"status": status, "reason_code": reason, "detail": detail, "title": "", "type": ""}


class ScriptedGateway:
    """See above. A request that nobody wrote an answer for is 404."""

    def __init__(self, answers: Mapping[str, Sequence[Said]]) -> None:
        self._answers = {request: list(said) for request, said in answers.items()}
        self.asked: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ends = ExitStack()
        self.url = ""

    def __enter__(self) -> ScriptedGateway:
        script = self

        class Scripted(Handler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                script._serve(self)

            do_POST = do_GET  # noqa: N815 - the name that the library calls

        self.url = self._ends.enter_context(serving(Scripted))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._ends.close()

    def _serve(self, request: Handler) -> None:
        raw = request.given()
        path = request.path.partition("?")[0]
        with self._lock:
            self.asked.append((request.command, request.path, json.loads(raw) if raw else None))
            self.keys.append(request.headers.get("X-API-Key"))
            said = self._answers.get(f"{request.command} {path}", [problem(404, "not_found", "no such thing")])
            status, body = said.pop(0) if len(said) > 1 else said[0]
        if (status, body) == SILENCE:
            self._over.wait()
        if status <= 0:
            request.close_connection = True
            return
        request.say(status, body if isinstance(body, bytes) else json.dumps(body).encode())
