"""The composition root's own duties."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate import keyfile, life, settings
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.app import _hosts, running
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.event import Kind, Outcome
from agentgate.core.note import COSIGNATURE_V1, ED25519, NoteKey
from agentgate.core.query import Query
from agentgate.logs import containment_id, log_key_path, make_log, make_log_signer
from agentgate.pipeline.policy.desk import PolicyDesk
from tests.contracts.log import Author
from tests.fakes import FakeUpstream, a_call, principal


async def test_a_gateway_whose_upkeep_dies_takes_no_more_calls_and_ends(tmp_path: Path) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with running(settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})) as gateway:

        async def dies() -> None:
            raise ZeroDivisionError

        upkeep = asyncio.create_task(dies())
        upkeep.add_done_callback(partial(life.stop_unless_asked, gateway))
        await asyncio.wait_for(told.wait(), 5)
        assert gateway.gate.closing
        with pytest.raises(ZeroDivisionError):
            await upkeep
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_a_gateway_that_can_bring_opa_no_policy_any_more_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_: PolicyDesk) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PolicyDesk, "start", dies)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    paths = {"AGENTGATE_DATA_DIR": str(tmp_path / "data"), "AGENTGATE_OPA_URL": f"unix://{tmp_path}/none.sock"}
    async with running(settings.load(paths)) as gateway:
        await asyncio.wait_for(told.wait(), 5)
        assert gateway.gate.closing
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_a_gateway_that_ends_cuts_what_runs_and_says_last_that_nothing_does(tmp_path: Path) -> None:
    config = settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})
    upstream = FakeUpstream()
    upstream.hold()
    async with running(config, upstreams={"demo": upstream}) as gateway:
        running_call = asyncio.create_task(gateway.gate.pass_through(a_call(arguments={"query": "SELECT 1"})))
        await asyncio.wait_for(upstream.started.wait(), 5)
    answer = await asyncio.wait_for(running_call, 5)
    assert (answer.outcome, upstream.cancelled) == (Outcome.CANCELLED, 1)
    async with running(config) as gateway:
        kinds = [record.kind async for record in gateway.log.records()]
        assert [row["left_idx"] is None for row in await gateway.log.projection("members")] == [False, True]
    assert kinds[kinds.index(Kind.LEFT) - 1 :] == [Kind.FINISHED, Kind.LEFT, Kind.JOINED, Kind.POLICY]


async def test_a_gateway_that_ends_says_which_keys_have_counted(tmp_path: Path) -> None:
    """The next start finds them in the file, and takes them for nothing new."""
    data_dir = tmp_path / "data"
    config = settings.load({"AGENTGATE_DATA_DIR": str(data_dir)})
    async with running(config) as gateway:
        keyfile.add_key(keyfile.key_file(data_dir), settings.Key(id="k-1", sha256="5f" * 32, agent="bot"))
        gateway.keys.read()
    async with running(config) as gateway:
        told = [record.fields["added"] async for record in gateway.log.records(kinds=(Kind.KEYS_CHANGED,))]
    assert told == [["k-1"]]


async def test_a_gateway_that_ends_says_how_many_refusals_it_has_only_counted(tmp_path: Path) -> None:
    config = settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})
    async with running(config) as gateway:
        turned_away = sum(not gateway.refusals.takes(principal()) for _ in range(1000))
    async with running(config) as gateway:
        leaves = [record.fields async for record in gateway.log.records()]
    assert turned_away > 0
    assert sum(leaf["count"] for leaf in leaves if leaf["kind"] == Kind.REFUSALS) == turned_away
    kinds = [leaf["kind"] for leaf in leaves]
    assert kinds.index(Kind.REFUSALS) < kinds.index(Kind.LEFT)


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ({"host": "fd00::2"}, "[fd00::2]"),
        ({"host": "FE80:0::1%eth0"}, "[fe80::1]"),
        ({"base_url": "https://[2001:db8::1]:8443"}, "[2001:db8::1]"),
        ({"base_url": "https://Gate.example.org:8443/a"}, "gate.example.org"),
        ({"hosts": ["2001:DB8::1"]}, "[2001:db8::1]"),
        ({"hosts": ["[2001:db8:0::1]"]}, "[2001:db8::1]"),
        ({"hosts": ["Gate.example.org"]}, "gate.example.org"),
        ({"hosts": ["gate.example.org:8443"]}, "gate.example.org"),
        ({"host": "::"}, None),
    ],
)
def test_names_that_are_served_are_written_as_in_a_host_header(server: dict[str, Any], name: str | None) -> None:
    hosts = _hosts(settings.load({}, overrides={"server": server}))
    assert hosts == {"localhost", "127.0.0.1", "[::1]"} | ({name} - {None})


def log_settings(tmp_path: Path, log: str) -> settings.Settings:
    path = tmp_path / "agentgate.yaml"
    path.write_text(f"log: {log}", encoding="utf-8")
    return settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")}, config=path)


def vkey(seed: int, *, origin: str = "agentgate.local/log/0", algorithm: bytes = ED25519) -> str:
    secret = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    return NoteKey(origin, secret.public_key().public_bytes_raw(), algorithm).text


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("{former_keys: [x]}", "log.former_keys"),
        (f"{{former_keys: ['{vkey(1, origin='another')}']}}", "another is another log"),
        (f"{{former_keys: ['{vkey(1, algorithm=COSIGNATURE_V1)}']}}", "log.former_keys"),
        (f"{{witnesses: [{{url: 'http://w', vkey: '{vkey(1)}'}}]}}", "log.witnesses"),
        ("{checkpoint_key: {env: NO_SUCH_VARIABLE}}", "log.checkpoint_key names the variable NO_SUCH_VARIABLE"),
    ],
)
async def test_a_key_that_is_none_stops_the_start(tmp_path: Path, log: str, sentence: str) -> None:
    with pytest.raises(UnsafeConfiguration, match=sentence):
        async with running(log_settings(tmp_path, log)):
            pass


async def test_a_new_key_is_named_once_whoever_has_signed_with_it_before(tmp_path: Path) -> None:
    """`log sign` has, or a start that went no further."""
    async with running(log_settings(tmp_path, "{}")) as gateway:
        [former] = gateway.log.keys
    config = log_settings(tmp_path, f"{{former_keys: ['{former.text}']}}")
    log_key_path(config).unlink()
    log = await make_log(config, make_log_signer(config, anew=True), is_vouched_for=True)
    await log.append(Author().decided())
    await log.aclose()
    for _ in range(2):
        async with running(config) as gateway:
            named = [record.fields["public"] async for record in gateway.log.search(Query(kinds={Kind.KEYED}))]
            assert named == [gateway.log.keys[0].text]


def test_a_log_keeps_its_redis_when_its_key_changes(tmp_path: Path) -> None:
    """A replica with the old configuration and one with the new meet there."""
    first, second, third = (Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3))
    former = ["{}", f"{{former_keys: ['{vkey(1)}']}}", f"{{former_keys: ['{vkey(2)}', '{vkey(1)}']}}"]
    ids = [
        containment_id(log_settings(tmp_path, log), signer)
        for log, signer in zip(former, (first, second, third), strict=True)
    ]
    assert ids == [first.key_id] * 3
