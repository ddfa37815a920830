"""The evidence desk on ports in memory: what it gives out is on record, proven and signed, or it is not given out."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.core import dsse
from agentgate.core.approval import State
from agentgate.core.containment import Scope as KillScope
from agentgate.core.decision import Ruling
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused, TimestampUnavailable
from agentgate.core.event import Kind, Record, rfc3339
from agentgate.core.evidence.pack import Pack, key_id
from agentgate.core.evidence.scope import Scope
from agentgate.core.merkle import leaf_hash, root
from agentgate.core.note import Checkpoint, NoteKey, sign
from agentgate.core.query import Query
from agentgate.core.verification.findings import Standing
from agentgate.core.verification.seals import Trust
from agentgate.core.verification.verify import verify
from agentgate.pipeline.records.books import Books
from agentgate.pipeline.records.evidence import EvidenceDesk, Export, Form, Forms, Rules, Seal
from agentgate.ports.evidence import Enclosures
from tests.fakes import ADMIN, ASK, REVISION, AtOnce, FakeEntropy, MemoryLog, a_call, principal
from tests.pipeline.conftest import House
from tests.pipeline.test_approvals import ADA

HMAC_KEY = bytes(range(32))
ORIGIN = "gateway.test/log/1"
LOG_SECRET = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
ENVELOPE_SECRET = Ed25519PrivateKey.from_private_bytes(bytes([2] * 32))
LOG_KEY = NoteKey(ORIGIN, LOG_SECRET.public_key().public_bytes_raw())
SESSION = Scope("default", session="s-1")


class Mixed(FakeEntropy):
    """Counts, and no two ids have the same beginning."""

    def token(self, n_bytes: int) -> bytes:
        return hashlib.shake_128(super().token(8)).digest(n_bytes)


class FakeTree:
    """A tree over the events of a `MemoryLog`. `fails` names what raises."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._note: bytes | None = None
        self.fails: set[str] = set()

    def _leaves(self) -> list[bytes]:
        return [leaf_hash(event.leaf) for event, _ in self._log.events]

    def _may(self, what: str) -> None:
        if what in self.fails or self._log.is_down:
            raise LogUnavailable("told to fail")

    async def integrate(self) -> None:
        self._may("integrate")
        leaves = self._leaves()
        self._note = sign(Checkpoint(ORIGIN, len(leaves), root(leaves)).text, LOG_KEY, LOG_SECRET.sign)

    async def checkpoint(self) -> bytes | None:
        self._may("checkpoint")
        return self._note

    async def hashes(self, level: int, first: int, count: int) -> list[bytes]:
        self._may("hashes")
        leaves, width = self._leaves(), 256**level
        return [root(leaves[at * width : (at + 1) * width]) for at in range(first, first + count)]


class FakeEnvelopeSigner:
    algorithm = "ed25519"
    spki = ENVELOPE_SECRET.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key_id = hashlib.sha256(spki).hexdigest()

    def sign(self, message: bytes) -> bytes:
        return ENVELOPE_SECRET.sign(message)


class FakeMac:
    algorithm = "hmac-sha256"
    key_id = key_id(HMAC_KEY)

    def sign(self, message: bytes) -> bytes:
        return hmac.new(HMAC_KEY, message, hashlib.sha256).digest()


@dataclass
class FakeWriter:
    extension: str = "html"
    media_type: str = "text/html"
    breaks: bool = False
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Security-Policy": "default-src 'none'"})

    def write(self, pack: Pack) -> bytes:
        if self.breaks:
            raise ZeroDivisionError
        return pack.json if self.extension == "json" else b"<p>" + pack.raw


class FakeBundler:
    """As the real one, without the page and without HMACs of views that it does not have."""

    def files(self, pack: Pack, enclosures: Enclosures) -> dict[str, bytes]:
        files = {"pack.json": pack.raw, "pack.json.hmac": f"{FakeMac().sign(pack.raw).hex()}\n".encode()}
        files |= {"checkpoint": enclosures.checkpoint, "keys/log.vkey": f"{LOG_KEY.text}\n".encode()}
        files["keys/envelope.pub.pem"] = dsse.PublicKey(FakeEnvelopeSigner.spki).pem
        files |= {f"leaves/{index}.json": leaf for index, leaf in enclosures.leaves.items()}
        files |= {f"bodies/{index}.json": body for index, body in enclosures.bodies.items()}
        files |= {f"proofs/{index}.tlog-proof": proof for index, proof in enclosures.proofs.items()}
        return files | {f"consistency/{old}": proof for old, proof in enclosures.consistency.items()}


class FakeAuthority:
    """Stamps whatever it is asked for, unless it is down."""

    def __init__(self) -> None:
        self.is_down = False
        self.stamped: list[bytes] = []

    async def stamp(self, message: bytes) -> bytes:
        if self.is_down:
            raise TimestampUnavailable("told to fail")
        self.stamped.append(message)
        return b"stamp of " + message

    async def aclose(self) -> None: ...


TRUST = Trust(hmac_keys=(HMAC_KEY,), envelope_keys=(dsse.PublicKey(FakeEnvelopeSigner.spki),), log_keys=(LOG_KEY,))


@dataclass
class Office:
    """A desk with everything around it."""

    house: House
    rules: Rules = field(default_factory=Rules)
    has_hmac: bool = True
    authority: FakeAuthority | None = None

    def __post_init__(self) -> None:
        self.tree = FakeTree(self.house.log)
        self.html = FakeWriter()
        self.desk = EvidenceDesk(
            reader=self.house.log,
            tree=self.tree,
            books=Books(self.house.recorder),
            clock=self.house.clock,
            meter=self.house.meter,
            worker=AtOnce(),
            forms=Forms({"json": FakeWriter("json", "application/json"), "html": self.html}, FakeBundler()),
            seal=Seal(
                FakeEnvelopeSigner(),
                HMAC_KEY if self.has_hmac else None,
                FakeMac() if self.has_hmac else None,
                self.authority,
            ),
            generator="AgentGate test",
            rules=self.rules,
        )

    async def give(self, scope: Scope = SESSION, form: Form = "json", **more: Any) -> Export:
        export = await self.desk.export(ADMIN, scope, form, **more)
        assert isinstance(export, Export), export
        return export

    async def zip(self, scope: Scope = SESSION, **more: Any) -> bytes:
        return content(await self.give(scope, "zip", **more))


def content(export: Export) -> bytes:
    raw = b"".join(export.chunks())
    assert len(raw) == export.size
    return raw


def files_of(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        return {name: found.read(name) for name in found.namelist()}


def predicate_of(raw: bytes) -> Mapping[str, Any]:
    envelope = dsse.parse_envelope(files_of(raw)["pack.dsse.json"])
    assert envelope.signed_by(TRUST.envelope_keys)
    return dsse.parse_statement(envelope.payload).predicate


def leaves_of(export: Export) -> list[Mapping[str, Any]]:
    """The events of a JSON pack."""
    return [json.loads(event["leaf"]) for event in json.loads(content(export))["integrity"]["events"]]


def kinds_of(export: Export) -> list[str]:
    return [leaf["kind"] for leaf in leaves_of(export)]


@pytest.fixture
async def house() -> House:
    return House(entropy=Mixed())


@pytest.fixture
async def office(house: House) -> Office:
    """Two calls of s-1, one of s-2 by another agent."""
    await house.gate.pass_through(a_call())
    await house.gate.pass_through(a_call())
    await house.gate.pass_through(a_call(session="s-2", caller=principal("other")))
    return Office(house)


# --- what is given ----------------------------------------------------------------------------------------------


async def test_a_zip_convinces_whoever_has_any_of_the_keys(office: Office) -> None:
    export = await office.give(form="zip")
    assert (export.media_type, export.extension) == ("application/zip", "zip")
    raw = content(export)
    report = verify(raw, TRUST)
    assert report.exit_status == 0, [f for f in report.findings if f.fault]
    assert [finding.detail for finding in report.findings if finding.standing is not Standing.HOLDS] == []
    assert {finding.check for finding in report.findings} >= {"container", "envelope", "files", "log", "pack.json"}


async def test_a_json_pack_convinces_who_has_the_hmac_key(office: Office) -> None:
    export = await office.give()
    assert verify(content(export), TRUST).exit_status == 0
    assert (export.media_type, export.extension) == ("application/json", "json")


async def test_a_view_has_an_hmac_over_its_bytes_and_the_headers_that_it_wants(office: Office) -> None:
    export = await office.give(form="html")
    assert export.hmac == hmac.new(HMAC_KEY, content(export), hashlib.sha256).hexdigest()
    assert export.headers == {"Content-Security-Policy": "default-src 'none'"}


async def test_without_a_key_nothing_has_an_hmac(house: House) -> None:
    office = Office(house, has_hmac=False)
    assert (await office.give(form="html")).hmac is None
    assert json.loads(content(await office.give()))["integrity"]["signed_by"] == []


async def test_the_envelope_says_what_the_pack_is_of(office: Office) -> None:
    raw = await office.zip()
    said = predicate_of(raw)
    pack = json.loads(files_of(raw)["pack.json"])
    assert said["pack_id"] == hashlib.sha256(files_of(raw)["pack.json"]).hexdigest()
    assert said["scope"] == {"tenant": "default", "session": "s-1"}
    assert (said["generated_at"], said["generator"]) == (rfc3339(office.house.clock.now()), "AgentGate test")
    indexes = [event["index"] for event in pack["integrity"]["events"]]
    assert (said["event_count"], said["first_index"], said["last_index"]) == (len(indexes), indexes[0], indexes[-1])
    assert said["checkpoint"]["size"] == pack["integrity"]["checkpoint"]["size"]
    assert indexes == sorted(indexes)


async def test_the_same_log_and_hour_are_the_same_pack_byte_for_byte(office: Office) -> None:
    await office.zip()
    events = list(office.house.log.events)
    packs = []
    for _ in range(2):
        office.house.log.events = list(events)
        # each export is on record, so the second log is made the first one again
        recorder = office.house.recorder
        recorder._entropy._count, recorder._counter = iter(range(1_000, 2_000)), 100  # type: ignore[attr-defined]
        packs.append(await office.zip())
    assert packs[0] == packs[1]


async def test_a_session_that_nobody_knows_is_an_empty_pack_that_verifies(office: Office) -> None:
    raw = await office.zip(Scope("default", session="none"))
    assert verify(raw, TRUST).exit_status == 0
    assert json.loads(files_of(raw)["pack.json"])["timeline"] == []


@pytest.mark.parametrize(
    ("scope", "sessions"),
    [
        (Scope("default"), ["s-1", "s-2"]),
        (Scope("default", agent="agent:other"), ["s-2"]),
        (Scope("default", agent="agent:bot"), ["s-1"]),
        (Scope("default", agent="agent:nobody"), []),
        (Scope("elsewhere"), []),
        (Scope("default", since="2026-11-20T00:00:00.000000Z"), ["s-1", "s-2"]),
        (Scope("default", until="2026-11-20T00:00:00.000000Z"), []),
    ],
)
async def test_a_pack_is_of_what_was_asked_for(
    office: Office, scope: Scope, sessions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgate.pipeline.records.material._SESSIONS_AT_ONCE", 1)
    pack = json.loads(files_of(await office.zip(scope))["pack.json"])
    assert pack["metadata"]["sessions"] == sessions
    assert pack["metadata"]["scope"] == scope.told


async def test_a_range_of_time_has_every_event_between_its_first_and_its_last(office: Office) -> None:
    """A clock that stood back is no reason for a gap in a session's numbers."""
    house = office.house
    for seconds in (100, -50, 100):
        house.clock.move(seconds)
        await house.gate.pass_through(a_call())
    pack = json.loads(files_of(await office.zip(Scope("default", since="2026-11-21T00:01:00.000000Z")))["pack.json"])
    numbers = [event["number"] for event in pack["integrity"]["events"] if '"session":"s-1"' in event["leaf"]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_a_pack_ends_before_its_until_though_the_log_goes_on(house: House) -> None:
    await house.gate.pass_through(a_call())
    house.clock.move(1)
    until = rfc3339(house.clock.moment)
    await house.gate.pass_through(a_call())
    for scope in (Scope("default", until=until), replace(SESSION, until=until)):
        assert kinds_of(await Office(house).give(scope)) == ["decided", "finished"]


async def test_what_came_before_a_range_is_not_in_it_though_its_clock_ran_ahead(house: House) -> None:
    for seconds in (100, -100):
        house.clock.move(seconds)
        since = rfc3339(house.clock.moment)
        await house.gate.pass_through(a_call())
    scope = Scope("default", since=since, until=rfc3339(house.clock.moment + timedelta(seconds=50)))
    found = leaves_of(await Office(house).give(scope))
    assert [(leaf["kind"], leaf["at"]) for leaf in found] == [
        (kind, since) for kind in ("decided", "finished", "exported")
    ]


async def test_an_agents_pack_has_what_others_did_in_its_sessions(house: House) -> None:
    """Whatever the session is called: an answer that carried a write belongs to it."""
    house.engine.answer = Ruling(ASK, REVISION)
    for session, agent in (("1", "bot"), ("2", "other")):
        asked = await house.gate.pass_through(a_call(session=session, caller=principal(agent)))
        assert asked.approval is not None
        await house.approvals.decide(ADA, asked.approval.id, State.APPROVED)
    found = await Office(house).give(Scope("default", agent="agent:bot"))
    leaves = [leaf for leaf in leaves_of(found) if leaf["kind"] != Kind.EXPORTED]
    assert [(leaf["kind"], leaf["principal"], leaf["session"]) for leaf in leaves] == [
        (Kind.APPROVAL_REQUESTED, "agent:bot", "1"),
        (Kind.DECIDED, "agent:bot", "1"),
        (Kind.APPROVAL_DECIDED, ADA.id, "1"),
    ]


# --- the log's history ------------------------------------------------------------------------------------------


async def test_a_zip_proves_that_the_log_continues_an_earlier_checkpoint(office: Office) -> None:
    await office.tree.integrate()
    earlier = await office.tree.checkpoint()
    assert earlier is not None
    size = len(office.house.log.events)
    raw = await office.zip(earlier_size=size)
    assert verify(raw, TRUST, earlier).exit_status == 0
    assert verify(await office.zip(), TRUST, earlier).exit_status == 1, "without the proof it is not shown"


async def test_a_log_does_not_continue_one_that_was_longer(office: Office) -> None:
    refused = await office.desk.export(ADMIN, SESSION, "zip", earlier_size=10_000)
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.INVALID_REQUEST


async def test_a_log_continues_itself_and_none_that_is_an_event_longer(office: Office) -> None:
    await office.zip()  # the key is announced
    size = len(office.house.log.events) + 1  # the export is on record first
    assert f"consistency/{size}" in files_of(await office.zip(earlier_size=size))
    assert isinstance(await office.desk.export(ADMIN, SESSION, "zip", earlier_size=size + 2), Refused)


# --- on record --------------------------------------------------------------------------------------------------


async def test_a_fourth_pack_waits_until_one_of_three_has_gone(office: Office) -> None:
    """Each is in memory until its last byte has gone; one that was refused takes no place."""
    for _ in range(4):
        await office.desk.export(ADMIN, SESSION, "zip", earlier_size=10_000)  # refused: the log is shorter
    for _ in range(3):
        await office.desk.export(ADMIN, SESSION, "json")
    fourth = asyncio.create_task(office.desk.export(ADMIN, SESSION, "json"))
    for _ in range(50):  # more turns than an export takes here
        await asyncio.sleep(0)
    assert not fourth.done()
    office.desk.sent()
    assert isinstance(await fourth, Export)


async def test_an_export_is_on_record_before_the_pack_is_made_and_in_it(office: Office) -> None:
    pack = json.loads(content(await office.give(Scope("default", agent="agent:bot", since="2026-11-21"))))
    [record] = office.house.log.of(Kind.EXPORTED)
    told = {name: record[name] for name in ("format", "of_agent", "since", "principal", "tenant")}
    assert told == {
        "format": "json", "of_agent": "agent:bot", "since": "2026-11-21", "principal": "person:admin",
        "tenant": "default",
    }  # fmt: skip
    assert [one["event_id"] for one in pack["summary"]["exports"]] == [record["id"]]
    assert office.house.meter.counts[("exports", "json")] == 1


async def test_the_envelope_key_is_announced_in_the_log_once_and_before_it_signs(office: Office) -> None:
    await office.give()
    assert office.house.log.of(Kind.KEYED) == [], "a JSON pack has no envelope"
    raw = await office.zip()
    await office.zip()
    [announced] = office.house.log.of(Kind.KEYED)
    assert (announced["use"], announced["key_id"]) == ("envelopes", FakeEnvelopeSigner.key_id)
    at = [event.kind for event, _ in office.house.log.events].index(Kind.KEYED)
    assert at < predicate_of(raw)["checkpoint"]["size"]
    again = Office(office.house)
    await again.zip()
    assert len(office.house.log.of(Kind.KEYED)) == 1, "after a restart it is known"


# --- when something fails ---------------------------------------------------------------------------------------


async def test_whether_the_key_is_announced_is_looked_up_once(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    log, looks = office.house.log, list[Query]()
    search = log.search

    def watched(query: Query, **more: Any) -> AsyncIterator[Record]:
        if more.get("newest"):
            looks.append(query)
        return search(query, **more)

    monkeypatch.setattr(log, "search", watched)
    for desk in (office, Office(office.house)):
        await desk.zip()
        await desk.zip()
    assert looks == [Query(kinds={Kind.KEYED})] * 2


async def test_nothing_is_given_out_that_could_not_be_recorded(office: Office) -> None:
    office.house.log.fail_next("append")
    with pytest.raises(LogUnavailable):
        await office.desk.export(ADMIN, SESSION, "json")
    assert ("exports", "json") not in office.house.meter.counts
    assert office.house.meter.counts[("exports_failed", "")] == 1


@pytest.mark.parametrize("step", ["integrate", "checkpoint", "hashes"])
async def test_nothing_is_given_out_without_the_logs_proof(office: Office, step: str) -> None:
    office.tree.fails = {step}
    with pytest.raises(LogUnavailable):
        await office.desk.export(ADMIN, SESSION, "zip")
    office.tree.fails = set()
    assert verify(await office.zip(), TRUST).exit_status == 0, "and later it is"


async def test_a_log_that_has_no_signed_state_yet_gives_no_pack_and_says_why(office: Office) -> None:
    async def none_yet() -> None: ...

    office.tree.checkpoint = none_yet  # type: ignore[method-assign]
    with pytest.raises(LogUnavailable, match="the log has no checkpoint"):
        await office.desk.export(ADMIN, SESSION, "zip")


async def test_a_log_that_goes_down_midway_is_a_refusal(office: Office) -> None:
    office.house.log.on_append = lambda event: setattr(office.house.log, "is_down", event.kind is Kind.KEYED)
    with pytest.raises(LogUnavailable):
        await office.desk.export(ADMIN, SESSION, "zip")


async def test_a_writer_that_breaks_gives_nothing_and_holds_up_nobody(office: Office) -> None:
    office.html.breaks = True
    with pytest.raises(ZeroDivisionError):
        await office.desk.export(ADMIN, SESSION, "html")
    assert ("exports", "html") not in office.house.meter.counts
    async with asyncio.timeout(5):
        assert verify(content(await office.give()), TRUST).exit_status == 0


async def test_a_pack_that_is_too_large_is_refused_and_says_what_to_do(house: House) -> None:
    for _ in range(3):
        await house.gate.pass_through(a_call())
    small = Office(house, Rules(max_events=5))
    refused = await small.desk.export(ADMIN, SESSION, "zip")
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.PACK_TOO_LARGE
    assert refused.detail == "a pack has at most 5 events and 256 MiB of them; narrow it with since and until"
    assert isinstance(await Office(house, Rules(max_events=6)).desk.export(ADMIN, SESSION, "zip"), Export)


async def test_what_is_recorded_after_the_checkpoint_is_not_in_the_pack(office: Office) -> None:
    """No proof could be made of it: the signed tree has not got it."""
    checkpoint = office.tree.checkpoint

    async def then_more() -> bytes | None:
        note = await checkpoint()
        await office.house.gate.pass_through(a_call())
        await office.house.killed(target="s-9")
        await office.house.killed(scope=KillScope.AGENT, target="bot")
        return note

    office.tree.checkpoint = then_more  # type: ignore[method-assign]
    for scope in (SESSION, replace(SESSION, since="2026-11-21"), Scope("default", agent="agent:bot")):
        raw = await office.zip(scope)
        size = predicate_of(raw)["checkpoint"]["size"]
        indexes = [event["index"] for event in json.loads(files_of(raw)["pack.json"])["integrity"]["events"]]
        assert indexes[0] == 0
        assert max(indexes) < size


async def test_a_kill_that_ends_after_the_checkpoint_is_in_the_pack(house: House) -> None:
    """In the state that proves the pack it was in force, though the clock that says when it ended ran behind."""
    office = Office(house)
    drain = await house.killed(scope=KillScope.AGENT, target="bot")
    house.clock.move(10)
    since = rfc3339(house.clock.moment)
    checkpoint = office.tree.checkpoint

    async def then_its_end() -> bytes | None:
        note = await checkpoint()
        house.clock.move(-5)
        await house.containment.release(ADMIN, drain.kill.id)
        house.clock.move(5)
        return note

    office.tree.checkpoint = then_its_end  # type: ignore[method-assign]
    found = leaves_of(await office.give(Scope("default", agent="agent:bot", since=since)))
    assert [leaf["kill_id"] for leaf in found if leaf["kind"] == Kind.KILLED] == [drain.kill.id]


async def test_a_pack_that_concerns_too_much_is_refused_though_it_has_little_of_its_own(house: House) -> None:
    for _ in range(2):
        await house.killed(scope=KillScope.AGENT, target="bot")
    await house.gate.pass_through(a_call())
    refused = await Office(house, Rules(max_events=3)).desk.export(ADMIN, SESSION, "json")
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.PACK_TOO_LARGE
    assert house.meter.counts["exports_failed", ""] == 1


async def test_what_concerns_others_or_was_over_before_makes_no_pack_too_large(house: House) -> None:
    """Else a log would grow until it gives no pack of anything, and a narrower range would be no cure."""
    office = Office(house, Rules(max_events=3))
    for other in ("s-8", "s-9"):
        drain = await house.killed(scope=KillScope.AGENT, target="bot")
        await house.containment.release(ADMIN, drain.kill.id)
        await house.killed(target=other)
        await office.give(Scope("default", session=other))
    house.clock.move(1)
    await house.gate.pass_through(a_call())
    assert kinds_of(await office.give()) == ["decided", "finished", "exported"]


@pytest.mark.parametrize("scope", [Scope("default"), SESSION, Scope("default", agent="agent:bot")], ids=str)
async def test_exports_from_before_its_time_make_no_pack_too_large(house: House, scope: Scope) -> None:
    """Else who takes the log once a minute ends all packs of a tenant."""
    await house.gate.pass_through(a_call())
    for _ in range(4):
        await Office(house).give(scope)
    small = Office(house, Rules(max_events=3))
    assert isinstance(await small.desk.export(ADMIN, scope, "json"), Refused)
    house.clock.move(1)
    since = rfc3339(house.clock.moment)
    await house.gate.pass_through(a_call())
    found = json.loads(content(await small.give(replace(scope, since=since))))
    leaves = [json.loads(event["leaf"]) for event in found["integrity"]["events"]]
    assert [leaf["kind"] for leaf in leaves] == ["decided", "finished", "exported"]
    assert found["metadata"]["time_range"]["start"] >= since


async def test_packs_are_made_one_after_the_other(office: Office) -> None:
    packs: list[Awaitable[Export]] = [office.give(form="zip") for _ in range(3)]
    sizes = [predicate_of(content(export))["checkpoint"]["size"] for export in await asyncio.gather(*packs)]
    assert sizes == [sizes[0], sizes[0] + 1, sizes[0] + 2]


# --- time stamps ------------------------------------------------------------------------------------------------


async def test_the_signature_is_stamped_and_the_signed_part_says_that_there_is_a_stamp(house: House) -> None:
    authority = FakeAuthority()
    raw = await Office(house, authority=authority).zip()
    signature = dsse.parse_envelope(files_of(raw)["pack.dsse.json"]).signatures[0].raw
    assert authority.stamped == [signature]
    assert files_of(raw)["pack.dsse.tsr"] == b"stamp of " + signature
    assert predicate_of(raw)["timestamp"] is True
    assert predicate_of(await Office(house).zip())["timestamp"] is False


async def test_an_authority_that_is_down_is_counted_and_the_pack_says_that_it_has_no_stamp(house: House) -> None:
    authority = FakeAuthority()
    authority.is_down = True
    raw = await Office(house, authority=authority).zip()
    assert predicate_of(raw)["timestamp"] is False
    assert "pack.dsse.tsr" not in files_of(raw)
    assert verify(raw, TRUST).exit_status == 0
    assert house.meter.counts[("timestamps_missing", "")] == 1


async def test_a_pack_that_must_be_stamped_is_refused_without(house: House) -> None:
    authority = FakeAuthority()
    authority.is_down = True
    strict = Office(house, Rules(needs_timestamp=True), authority=authority)
    refused = await strict.desk.export(ADMIN, SESSION, "zip")
    assert isinstance(refused, Refused)
    assert refused.reason is ReasonCode.TIMESTAMP_UNAVAILABLE
    assert ("exports", "zip") not in house.meter.counts
    authority.is_down = False
    assert predicate_of(await strict.zip())["timestamp"] is True
