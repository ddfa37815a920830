"""Packs to look at and to attack: a rich session, an empty one, one call, many calls, hostile text, an unsigned one.

`python -m tests.evidence_samples FOLDER` writes each of them as HTML, to be looked at.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from agentgate.core.call import Access, Tool, ToolName
from agentgate.core.containment import Kill, KillId, Scope
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Kind, Origin, Outcome, Record, make, rfc3339
from agentgate.core.events.calls import decided, finished
from agentgate.core.events.keeping import exported, held, pruned
from agentgate.core.events.kills import drained, killed, release_asked, released
from agentgate.core.evidence.pack import About, Pack, Seals, build, seal
from agentgate.core.evidence.scope import Scope as PackScope
from agentgate.core.members import Progress
from agentgate.core.retention import Hold
from tests.core.events import allow, numbered
from tests.fakes import ALLOW, ALLOW_WRITE, ASK, DENY, REVISION, a_call, principal

KEY: Final = b"an-hmac-key-of-32-random-bytes!!"
START: Final = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
GENERATED: Final = START + timedelta(hours=6)

TOOLS: Final = {
    name: Tool(ToolName(name), server, access, {"type": "object"})
    for name, server, access in (
        ("crm.search_accounts", "crm", Access.READ),
        ("crm.update_account", "crm", Access.WRITE),
        ("db_query", "warehouse", Access.READ),
        ("send_email", "mail", Access.WRITE),
        ("web_fetch", "browser", Access.READ),
        ("payments.refund", "payments", Access.WRITE),
    )
}


class Story:
    """A session as it happens. Each step takes the time that it is given, in seconds."""

    def __init__(self, *, agent: str = "research-bot", session: str = "sess-7f3a91", tenant: str = "acme") -> None:
        self.agent = agent
        self.session = session
        self.tenant = tenant
        self.at = START
        self.events: list[Event] = []

    def origin(self) -> Origin:
        number = len(self.events) + 1
        return Origin(f"0197f3a9-{number:08d}", self.at, "m-a1", number, "0.3.0", number.to_bytes(16, "big"))

    def wait(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    def add(self, make_event: Callable[..., Event], *arguments: Any, **more: Any) -> Event:
        event = make_event(self.origin(), *arguments, **more)
        self.events.append(event)
        return event

    def call(self, tool: str, decision: Decision, *, after: float = 5.0, **more: Any) -> Any:
        """A decision; `finish` ends it if it was allowed."""
        self.wait(after)
        known = TOOLS.get(tool)
        caller = principal(more.pop("agent", self.agent), tenant=self.tenant)
        call = replace(
            a_call(session=more.pop("session", self.session), tool=known, tool_name=tool, caller=caller, **more),
            trace_id=f"5b1f{len(self.events):04x}-9c1e-4d2a-8f00-{len(self.events) * 7919:012x}",
        )
        latency = {"admission": 210, "policy": 480, "append": 1900}
        self.add(decided, call, decision, position=0, arguments=b"{}", context=b"{}", latency_us=latency)
        return call

    def finish(
        self, call: Any, outcome: Outcome = Outcome.OK, code: ReasonCode = ReasonCode.OK, *, ms: int = 180, **more: Any
    ) -> None:
        self.wait(ms / 1000)
        more = {"latency_us": {"upstream": ms * 1000}, "upstream_status": 200, **more}
        self.add(finished, call, outcome, code, result=b'{"ok":true}', **more)

    def run(self, tool: str, decision: Decision | None = None, *, after: float = 5.0, ms: int = 180) -> None:
        self.finish(self.call(tool, decision or allow(), after=after), ms=ms)

    def ask(self, call: Any, approval_id: str) -> None:
        fields = {
            "approval_id": approval_id,
            "call_sha256": call.digest,
            "policy_revision": REVISION,
            "expires_at": rfc3339(self.at + timedelta(hours=1)),
            "tool": call.tool_name,
            "trace_id": call.trace_id,
        }
        asker = call.caller.id
        self.add(make, Kind.APPROVAL_REQUESTED, fields, tenant=self.tenant, session=self.session, principal=asker)

    def answer(self, approval_id: str, verdict: str, person: str) -> None:
        fields = {"approval_id": approval_id, "verdict": verdict, "auth": "api_key"}
        self.add(make, Kind.APPROVAL_DECIDED, fields, tenant=self.tenant, session=self.session, principal=person)

    def expire(self, approval_id: str) -> None:
        fields = {"approval_id": approval_id, "state": "expired"}
        self.add(make, Kind.APPROVAL_CLOSED, fields, tenant=self.tenant, session=self.session)

    def kill(self, kill_id: str, *, reason: str, scope: Scope = Scope.SESSION, target: str = "", **more: Any) -> Kill:
        target = target or self.session
        tenant = self.tenant if scope in (Scope.SESSION, Scope.AGENT, Scope.TENANT) else ""
        kill = Kill(KillId(kill_id), scope, tenant, target, reason, "person:dana.op", self.at, **more)
        self.add(killed, kill, auth="api_key")
        return kill

    def records(self) -> list[Record]:
        return numbered(self.events)


# --- the sessions -----------------------------------------------------------------------------------------


def _denied(reason: str, rule: str) -> Decision:
    return allow({**DENY, "reason": reason, "matched_rule": rule})


def _read(story: Story) -> None:
    story.run("crm.search_accounts", after=0)
    story.run("crm.search_accounts", after=8, ms=240)
    story.run("db_query", after=12, ms=95)
    story.run("db_query", after=3, ms=130)
    story.call("db_query", _denied("the table payroll is not for agents", "restricted_tables"), after=6)
    story.run("web_fetch", after=20, ms=880)
    story.call("shell_exec", refusal(ReasonCode.UNKNOWN_TOOL, "Tool not in allowlist"), after=14)
    story.call("web_fetch", _denied("No matching rule", "default_deny"), after=9)
    story.run("web_fetch", after=11, ms=610)


def _write(story: Story) -> None:
    ask = allow(ASK)._replace(approval_id="apr-41d0c7")
    asked = story.call("crm.update_account", ask, after=25)
    story.ask(asked, "apr-41d0c7")
    story.wait(74)
    story.answer("apr-41d0c7", "approved", "person:alice.meyer")
    granted = allow(ALLOW_WRITE)._replace(approval_id="apr-41d0c7", approved_by="person:alice.meyer")
    story.finish(story.call("crm.update_account", granted, after=6), ms=410, credential="crm-writer")
    refund = story.call("payments.refund", allow(ASK)._replace(approval_id="apr-93be02"), after=18)
    story.ask(refund, "apr-93be02")
    story.wait(41)
    story.answer("apr-93be02", "denied", "person:bob.tan")
    no = refusal(ReasonCode.APPROVAL_DENIED, "person:bob.tan said no")._replace(approval_id="apr-93be02")
    story.call("payments.refund", no, after=4)
    mail = story.call("send_email", allow(ASK)._replace(approval_id="apr-c05512"), after=15)
    story.ask(mail, "apr-c05512")


def _burst(story: Story) -> None:
    story.wait(30)
    for _ in range(11):
        story.run("web_fetch", after=0.02, ms=40)
    limit = refusal(ReasonCode.RATE_LIMITED, "web_fetch: 10 calls in 60 s are used up")
    story.call("web_fetch", limit, after=0.05)
    story.call("web_fetch", limit, after=0.4)
    failing = story.call("crm.search_accounts", allow(), after=10)
    story.finish(
        failing,
        Outcome.ERROR,
        ReasonCode.UPSTREAM_ERROR,
        error="the tool answered 502 Bad Gateway",
        upstream_status=502,
        ms=1200,
    )
    slow = story.call("crm.update_account", allow(ALLOW_WRITE), after=5)
    story.finish(
        slow,
        Outcome.UNKNOWN,
        ReasonCode.UPSTREAM_TIMEOUT,
        error="no answer within 10 s",
        upstream_status=None,
        ms=10_000,
    )


def _stop(story: Story) -> None:
    cut = story.call("send_email", allow(ALLOW_WRITE), after=12)
    story.wait(1.5)
    kill = story.kill("kill-5e9d", reason="agent mails customers that nobody asked it to")
    cut_text = "cut by kill kill-5e9d; upstream effect unknown"
    story.finish(
        cut, Outcome.CANCELLED, ReasonCode.KILLED, error=cut_text, kill_id="kill-5e9d", upstream_status=None, ms=20
    )
    story.wait(0.1)
    story.add(drained, kill, position=1, members=["m-a1", "m-b2"])
    for _ in range(3):
        story.call("send_email", refusal(ReasonCode.KILLED, "killed by kill-5e9d"), after=2)
    story.wait(95)
    story.add(release_asked, kill, actor="person:dana.op", auth="api_key")
    story.wait(60)
    story.add(
        released,
        kill,
        actor="person:erin.lead",
        auth="api_key",
        why="release",
        forced=False,
        asked_by=["person:dana.op", "person:erin.lead"],
    )
    story.run("crm.search_accounts", after=20, ms=210)
    story.call("db_query", allow(), after=10)  # still open as the pack is made


@cache
def rich() -> tuple[Record, ...]:
    """Everything that a session can have: fourteen minutes of it."""
    story = Story()
    _read(story)
    _write(story)
    _burst(story)
    _stop(story)
    story.wait(60)
    story.expire("apr-c05512")
    story.wait(2)
    what = {"of_session": story.session}
    story.add(exported, actor="person:audra", tenant=story.tenant, form="json", what=what)
    hold = Hold("hold-1", story.tenant, story.session, "person:legal", "", "Case 2026-118")
    story.add(held, hold, auth="api_key")
    return tuple(story.records())


@cache
def one_call() -> tuple[Record, ...]:
    story = Story()
    story.run("db_query")
    return tuple(story.records())


@cache
def wide() -> tuple[Record, ...]:
    """Several agents and sessions over some days, with a kill of everything that was not heard of by all."""
    random_ = random.Random(7)
    story = Story()
    names = [*TOOLS, *(f"reports.section_{number:02d}" for number in range(12))]
    for number in range(300):
        if number == 150:
            kill = story.kill(
                "kill-all", reason="credential leak, stop everything", scope=Scope.GLOBAL, target="everything"
            )
            story.wait(3)
            story.add(drained, kill, position=2, members=["m-a1", "m-b2"], progress=Progress((), ("m-b2",), ()))
        stopped = 150 <= number < 190
        decision = refusal(ReasonCode.KILLED, "killed by kill-all") if stopped else _any_decision(random_)
        agent = random_.choice(["research-bot", "billing-bot", "triage-bot"])
        call = story.call(
            random_.choice(names),
            decision,
            after=random_.expovariate(1 / 900),
            agent=agent,
            session=f"sess-{agent[:3]}-{number // 60}",
        )
        if decision.allowed:
            story.finish(call, ms=random_.randrange(20, 900))
        if number == 190:
            story.add(
                released,
                replace(kill, actor="person:erin.lead"),
                actor="person:erin.lead",
                auth="api_key",
                why="release",
                forced=True,
            )
    story.add(
        pruned, actor="person:admin", tenant=story.tenant, session="sess-old", why="retention", bodies=118, through=4031
    )
    return tuple(story.records())


def _any_decision(random_: random.Random) -> Decision:
    dice = random_.random()
    if dice < 0.78:
        return allow(ALLOW if dice < 0.6 else ALLOW_WRITE)
    if dice < 0.92:
        return _denied("No matching rule", "default_deny")
    return refusal(ReasonCode.RATE_LIMITED, "the limit is used up")


@cache
def large(calls: int = 10_000) -> tuple[Record, ...]:
    """Many calls in some hours, with one kill among them."""
    random_ = random.Random(1)
    story = Story()
    names = [*TOOLS, *(f"tool_{number:02d}" for number in range(14))]
    for number in range(calls):
        decision = _any_decision(random_)
        call = story.call(
            random_.choices(names, weights=range(len(names), 0, -1))[0],
            decision,
            after=random_.expovariate(2.0) * (6 if number % 1500 < 200 else 1),
        )
        if decision.allowed:
            story.finish(call, ms=random_.randrange(5, 400))
        if number == calls // 2:
            kill = story.kill("kill-half", reason="a drill")
            story.add(drained, kill, position=1, members=["m-a1"])
            story.wait(90)
            story.add(released, kill, actor="", auth="", why="expiry", forced=False)
    return tuple(story.records())


def hostile(texts: Sequence[str], names: Sequence[str] = ()) -> tuple[Record, ...]:
    """`texts` in every field that people or upstreams can fill, one call each; `names` where grammar rules at the door,
    as if a fault had let them through."""
    story = Story()
    for number, text in enumerate(texts):
        name = names[number % len(names)] if names else "db_query"
        decision = _denied(text, text[:128])._replace(policy_revision=text[:128], approval_id=text)
        call = story.call(name, decision, agent=name if names else "bot", session=story.session)
        allowed = allow()._replace(matched_rule=text, policy_revision=text, approved_by=text, approval_id=text)
        call = story.call(name, allowed, agent=name if names else "bot")
        story.finish(call, Outcome.ERROR, ReasonCode.UPSTREAM_ERROR, error=text, credential=text, kill_id=text)
        story.ask(call, text)
        story.answer(text, "approved", text)
        kill = story.kill(text, reason=text, target=text)
        story.add(drained, kill, position=number, members=[text], progress=Progress((), (text,), (text,)))
        story.add(release_asked, kill, actor=text, auth="api_key")
        story.add(released, kill, actor=text, auth="api_key", why=text, forced=True, asked_by=[text])
        what = {"of_session": text, "of_agent": text, "since": text, "until": text}
        story.add(exported, actor=text, tenant=story.tenant, form=text, what=what)
        story.add(held, Hold(text, story.tenant, text, text, "", text), auth=text)
        story.add(pruned, actor=text, tenant=story.tenant, session=text, why=text, bodies=1, through=2)
    return tuple(story.records())


NASTY_TEXTS: Final = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "admin\u202etxt.exe\u2066 hidden\u2069",
    "zero\u200bwidth\u200d\ufeff and \x00\x07\x1b[31m control\r\nline two",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031ealgo \U000e0041\U000e0042",
    "名前 имя اسم שם 🦊 ﷽",
    "w" * 400,
    "a " * 240,
    "{{7*7}} {% for x in y %} ${jndi:ldap://x} %s %n",
    "]]><!--</svg></style></title>-->",
    "a drill”; it drained. It was released by person:admin (“so",
)


# --- packs ------------------------------------------------------------------------------------------------


def a_checkpoint(size: int) -> bytes:
    """A note as the log signs it, with a signature that nobody made: views show it, they do not check it."""
    root = base64.b64encode(bytes(range(32))).decode()
    signature = base64.b64encode(b"\x1f\x2e\x3d\x4c" + bytes(64)).decode()
    return f"gateway.example/log\n{size}\n{root}\n\n— gateway.example/log {signature}\n".encode()


def pack_of(
    records: Sequence[Record],
    *,
    key: bytes | None = KEY,
    envelope: str | None = "9d1c44e07ab35f02",
    proofs: bool = True,
    scope: Mapping[str, str] | None = None,
) -> Pack:
    wanted = PackScope(**{"tenant": "acme", "session": "sess-7f3a91", **({} if scope is None else scope)})
    about = About(wanted, rfc3339(GENERATED), "AgentGate 0.3.0")
    size = max((record.index for record in records), default=0) + 5
    body = build(about, records, a_checkpoint(size) if proofs else None)
    return seal(body, Seals(key, envelope, proofs), signed_at=rfc3339(GENERATED))


def _until_the_release() -> Pack:
    """Of a time that ends with a kill in force and a question that nobody has answered."""
    until = next(record.fields["at"] for record in rich() if record.kind is Kind.RELEASED)
    return pack_of([record for record in rich() if record.fields["at"] < until], scope={"until": until})


_TENANT: Final = {"tenant": "acme", "session": None, "since": "2026-11-20T00:00:00.000000Z"}

SAMPLES: Final[Mapping[str, Callable[[], Pack]]] = {
    "rich": lambda: pack_of(rich()),
    "empty": lambda: pack_of(()),
    "one_call": lambda: pack_of(one_call()),
    "until": _until_the_release,
    "wide": lambda: pack_of(wide(), scope=_TENANT),  # type: ignore[arg-type]
    "large": lambda: pack_of(large()),
    "nasty": lambda: pack_of(hostile(NASTY_TEXTS)),
    "nasty_names": lambda: pack_of(hostile(NASTY_TEXTS, NASTY_TEXTS)),
    "hmac_only": lambda: pack_of(rich(), envelope=None, proofs=False),
    "unsigned": lambda: pack_of(rich(), key=None, envelope=None, proofs=False),
}
"""Every kind of pack that a writer must be able to write down."""


@cache
def sample(name: str) -> Pack:
    return SAMPLES[name]()
