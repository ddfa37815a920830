"""The client of the control routes: what it asks, and what it makes of every kind of answer."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from agentgate.commands import answers
from agentgate.commands import remote as remote_module
from agentgate.commands.answers import NotAGateway, Refusal, Unanswered
from agentgate.commands.remote import Remote
from tests.scripted_gateway import HANG_UP, SILENCE, ScriptedGateway, problem
from tests.web import Handler, serving

URL = "http://127.0.0.1:8000"
KILL = {"id": "k", "drained": True}


def answering(*answers: httpx.Response | Exception) -> tuple[Remote, list[httpx.Request]]:
    asked: list[httpx.Request] = []
    given = itertools.chain(answers, itertools.repeat(answers[-1]))

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        said = next(given)
        if isinstance(said, Exception):
            raise said
        return said

    return Remote(URL, "key", transport=httpx.MockTransport(answer)), asked


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "127.0.0.1", "ftp://x", "http://", "http://[::1", "/x", "http://a..b:1", "http://xn--a"],
)
def test_what_is_no_url_of_a_gateway_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Remote(url, "key")


@pytest.mark.parametrize("key", ["", "a\nb", "schlüssel", "agk_1\r", "agk_1 ", " agk_1"])
def test_what_cannot_be_a_key_is_said_without_saying_it(key: str) -> None:
    with pytest.raises(ValueError, match="no key has") as caught:
        Remote(URL, key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_clear_text"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://localhost", False),
        ("http://[::1]:8000", False),
        ("https://gate.example.org", False),
        ("http://gate.example.org", True),
        ("http://10.0.0.1", True),
    ],
)
def test_a_key_that_travels_in_clear_text_is_noticed(url: str, *, is_clear_text: bool) -> None:
    assert Remote(url, "key").is_clear_text is is_clear_text


def test_the_key_goes_in_its_header_and_nowhere_else() -> None:
    remote, asked = answering(httpx.Response(200, json={"kills": []}))
    remote.kills()
    assert asked[0].headers["X-API-Key"] == "key"
    assert "key" not in str(asked[0].url)


def test_a_persons_access_token_goes_as_a_bearers() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"kills": []})

    Remote("http://127.0.0.1:8000", "e30.e30.AAAA", transport=httpx.MockTransport(answer)).kills()
    assert asked[0].headers["Authorization"] == "Bearer e30.e30.AAAA"
    assert "X-API-Key" not in asked[0].headers


def test_an_address_below_a_path_is_kept() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"members": []})

    Remote("https://gate.example.org/agentgate/", "key", transport=httpx.MockTransport(answer)).members()
    assert asked == ["https://gate.example.org/agentgate/members"]


def test_a_redirect_does_not_carry_the_key_away() -> None:
    remote, asked = answering(httpx.Response(307, headers={"Location": "http://elsewhere.example.org/kills"}))
    with pytest.raises(NotAGateway):
        remote.kills()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("kill_id", "path"), [("k/../../admin", "/kills/k%2F..%2F..%2Fadmin"), ("a b?c", "/kills/a%20b%3Fc")]
)
def test_an_id_cannot_lead_to_another_route(kill_id: str, path: str) -> None:
    remote, asked = answering(httpx.Response(200, json={**KILL, "active": True}))
    remote.progress(kill_id)
    assert asked[0].url.raw_path.decode() == path


def test_a_refusal_is_told_by_its_problem_document() -> None:
    remote, _ = answering(httpx.Response(403, json=problem(403, "forbidden", "Insufficient role")[1]))
    with pytest.raises(Refusal) as caught:
        remote.members()
    refusal = caught.value
    assert (refusal.status, refusal.reason, refusal.detail) == (403, "forbidden", "Insufficient role")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>It works!</html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"detail": "Not Found"}),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(502, text="Bad Gateway"),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(204),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [Remote.kills, Remote.members, Remote.calls, Remote.resume, lambda r: r.release("k")],
    ids=["kills", "members", "calls", "resume", "release"],
)
def test_something_else_that_answers_is_not_taken_for_a_gateway(
    answer: httpx.Response, ask: Callable[[Remote], object]
) -> None:
    remote, _ = answering(answer)
    with pytest.raises(NotAGateway):
        ask(remote)


def test_a_total_that_is_not_said_is_what_was_listed() -> None:
    remote, asked = answering(
        httpx.Response(200, json={"kills": [KILL]}, headers={"X-Total-Count": "70"}),
        httpx.Response(200, json={"kills": [KILL]}),
    )
    assert [remote.kills(1).total, remote.kills().total] == [70, 1]
    assert [request.url.query for request in asked] == [b"limit=1", b""]


def test_an_order_whose_answer_was_lost_is_given_once_more_under_its_id() -> None:
    order = {"id": "k", "scope": "session", "target": "s"}
    with ScriptedGateway({"POST /kills": [HANG_UP, (200, KILL)]}) as gateway, Remote(gateway.url, "key") as remote:
        assert remote.kill(order) == KILL
        assert gateway.asked == [("POST", "/kills", order)] * 2


def test_a_gateway_that_takes_orders_and_is_silent_may_have_carried_them_out() -> None:
    with ScriptedGateway({"POST /kills": [SILENCE]}) as gateway, Remote(gateway.url, "key", answer_s=0.05) as remote:
        with pytest.raises(Unanswered) as caught:
            remote.kill({"id": "k"})
        assert caught.value.may_have_arrived
        assert len(gateway.asked) == 2


@pytest.mark.parametrize("begin", [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
def test_an_answer_that_drips_has_a_deadline_as_a_whole(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "CONNECT_S", 0.2)
    is_over = threading.Event()

    class Drip(Handler):
        def do_GET(self) -> None:
            self.wfile.write(begin)
            with suppress(OSError):  # nobody waits
                while not is_over.wait(0.05):
                    self.wfile.write(b"a")

    with serving(Drip) as url, Remote(url, "key", answer_s=0.3) as remote:
        with pytest.raises(Unanswered, match=r"its answer was not whole after 0\.5 s") as caught:
            remote.members()
        is_over.set()
    assert caught.value.may_have_arrived


@pytest.mark.parametrize("ask", [Remote.members, lambda remote: list(remote.export({}))], ids=["answer", "refusal"])
def test_an_answer_has_an_end_in_bytes(ask: Callable[[Remote], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 10)
    remote, _ = answering(httpx.Response(503, content=b"{" + b" " * 10))
    with pytest.raises(NotAGateway, match="more than 10 bytes"):
        ask(remote)


def test_where_nobody_listens_nothing_has_arrived_and_nothing_is_repeated() -> None:
    remote, asked = answering(httpx.ConnectError("connection refused"))
    with pytest.raises(Unanswered, match="connection refused") as caught:
        remote.kill({"id": "k"})
    assert not caught.value.may_have_arrived
    assert len(asked) == 1


@pytest.mark.parametrize(
    "ask",
    [Remote.resume, lambda r: r.release("k"), lambda r: r.attest_gone("m")],
    ids=["resume", "release", "attest_gone"],
)
def test_nothing_else_is_ever_repeated(ask: Callable[[Remote], object]) -> None:
    remote, asked = answering(httpx.ReadError("connection reset by peer"))
    with pytest.raises(Unanswered, match="reset"):
        ask(remote)
    assert len(asked) == 1
