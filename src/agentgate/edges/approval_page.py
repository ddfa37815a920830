"""What a browser is told that follows the link of an approval: no call, but what to type to see it.

It is made of the request alone, so that it tells nobody which approvals there are; it has no script, and no form that a
key could be put into.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Coroutine
from html import escape
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute

from agentgate.core.errors import ReasonCode
from agentgate.core.hosts import is_loopback
from agentgate.edges.desks import Desks
from agentgate.edges.problem import Problem

_ID: Final = re.compile(r"apr-[0-9a-f]{1,64}")
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>An approval of AgentGate</title>
</head>
<body>
<h1>An approval of AgentGate</h1>
<p>What call it is about is shown only to a person whose key has the role approver. In a terminal:</p>
<pre>
export AGENTGATE_KEY=…
agentgate approvals show {words}
agentgate approve {words}
agentgate deny {words}
</pre>
<p>Read the whole call before you say yes.</p>
</body>
</html>
"""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}


class WithPage(APIRoute):
    """A route that answers a browser without a key with the page, and everybody else as it would."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_or_page(request: Request) -> Response:
            try:
                return await answer(request)
            except Problem as problem:
                if problem.reason is not ReasonCode.UNAUTHENTICATED or not _wants_html(request):
                    raise
                return _page(request)

        return answer_or_page


def _wants_html(request: Request) -> bool:
    """As browsers say it; what takes `*/*` is a program."""
    accepted = ",".join(request.headers.getlist("accept")).lower().split(",")
    return any(one.partition(";")[0].strip() == "text/html" for one in accepted)


def _page(request: Request) -> HTMLResponse:
    desks: Desks = request.app.state.desks
    approval_id = request.path_params["approval_id"]
    url = desks.base_url or _of_this_machine(request) or "URL"
    # for a shell and for a page: nobody makes up a link that has others type what they would not
    words = (approval_id if _ID.fullmatch(approval_id) else "ID", "--url", shlex.quote(url.rstrip("/")))
    return HTMLResponse(_PAGE.format(words=escape(" ".join(words))), headers=_HEADERS)


def _of_this_machine(request: Request) -> str | None:
    """Where this was asked, unless it is elsewhere: behind a proxy that ends TLS it would be `http`, and the key that
    is sent there would go without."""
    return f"{request.url.scheme}://{request.headers['host']}" if is_loopback(request.url.hostname or "") else None
