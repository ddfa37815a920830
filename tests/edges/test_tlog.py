"""The log's read side over HTTP: what is served to whom, and nothing beyond what is signed."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from agentgate.core import merkle
from agentgate.core.note import Checkpoint, NoteKey, open_checkpoint, parse_key
from agentgate.core.tiles import parse_bundle, parse_hashes
from tests.edges.conftest import key_of
from tests.gateway import GatewayProcess, call, until

QUERY = {"query": "SELECT 1"}


def leaves(gateway: GatewayProcess) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(f"file:{gateway.data_dir}/log.db?mode=ro", uri=True)) as connection:
        return [leaf for (leaf,) in connection.execute("SELECT leaf FROM events ORDER BY idx")]


def log_key(gateway: GatewayProcess) -> NoteKey:
    return parse_key(gateway.client().get("/log/keys").text.split()[0])


def settled(gateway: GatewayProcess) -> Checkpoint:
    """A checkpoint over all events there are, which a checkpoint a second brings about."""
    key = log_key(gateway)

    def newest() -> Checkpoint | None:
        answer = gateway.client().get("/log/checkpoint")
        found = open_checkpoint(answer.content, [key], key.name) if answer.status_code == 200 else None
        return found if found is not None and found.size == len(leaves(gateway)) else None

    return until(newest)


@pytest.fixture(scope="module")
def signed(gateway: GatewayProcess) -> Checkpoint:
    """Enough events for one full tile and a part of the next."""
    agent = gateway.client(key_of("agent"))
    while len(leaves(gateway)) < 300:
        call(agent, "db_query", QUERY, session="session-tiles")
    return settled(gateway)


def path_of(level: str, size: int) -> str:
    return f"/log/tile/{level}/001.p/{size - 256}"


def test_the_checkpoint_is_of_everything_within_a_second_and_for_anybody(
    gateway: GatewayProcess, signed: Checkpoint
) -> None:
    assert merkle.root(map(merkle.leaf_hash, leaves(gateway)[: signed.size])) == signed.root
    answer = gateway.client().get("/log/checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"


def test_tiles_are_those_of_the_tree_and_may_be_kept_for_good(gateway: GatewayProcess, signed: Checkpoint) -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves(gateway)]
    for path, expected in (
        ("/log/tile/0/000", hashes[:256]),
        (path_of("0", signed.size), hashes[256 : signed.size]),
        ("/log/tile/0/000.p/17", hashes[:17]),
        ("/log/tile/1/000.p/1", [merkle.root(hashes[:256])]),
    ):
        answer = gateway.client().get(path)
        assert answer.status_code == 200, path
        assert parse_hashes(answer.content, len(expected)) == expected
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = gateway.client().get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_entries_are_for_an_auditor_of_all_tenants(gateway: GatewayProcess, signed: Checkpoint) -> None:
    path = path_of("entries", signed.size)
    assert gateway.client().get(path).status_code == 401
    assert gateway.client(key_of("agent")).get(path).status_code == 403
    assert gateway.client(key_of("auditor", "b")).get(path).status_code == 403
    for key in (key_of("auditor"), key_of("admin")):
        answer = gateway.client(key).get(path)
        assert parse_bundle(answer.content) == leaves(gateway)[256 : signed.size]
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert parse_bundle(gateway.client(key_of("auditor")).get("/log/tile/entries/000").content) == leaves(gateway)[:256]


@pytest.mark.parametrize(
    "path",
    [
        "/log/tile/0/001", "/log/tile/0/002", "/log/tile/0/001.p/255", "/log/tile/1/000", "/log/tile/1/000.p/2",
        "/log/tile/2/000.p/1", "/log/tile/63/000.p/1", "/log/tile/64/000", "/log/tile/00/000", "/log/tile/0/0",
        "/log/tile/0/000.p/0", "/log/tile/0/000.p/256", "/log/tile/0/x001/000",
        "/log/tile/0/x009/x223/x372/x036/x854/x775/807",
        "/log/tile/data/000", "/log/tile/0/", "/log/tile/0", "/log/tile/-1/000", "/log/tile/0/000%20",
        "/log/tile/0/..%2f..%2fkeys",
        "/log/tile/entries/001", "/log/tile/entries/nothing", "/log/", "/log/checkpoint/",
    ],
)  # fmt: skip
def test_what_is_not_in_the_signed_log_is_404_and_not_kept(
    gateway: GatewayProcess, signed: Checkpoint, path: str
) -> None:
    answer = gateway.client(key_of("auditor")).get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "immutable" not in answer.headers.get("cache-control", "")


def test_keys_are_vkeys(gateway: GatewayProcess) -> None:
    answer = gateway.client().get("/log/keys")
    assert [parse_key(line).name for line in answer.text.splitlines()] == ["agentgate.local/log/0"]


def test_health_says_how_far_the_checkpoint_is_behind(gateway: GatewayProcess, signed: Checkpoint) -> None:
    settled(gateway)
    assert gateway.client().get("/health").json()["checkpoint"] == {"behind": 0, "signed": True, "kept": {"file": True}}
    assert 'agentgate_health_status{dependency="checkpoints"} 1.0' in gateway.client().get("/metrics").text
