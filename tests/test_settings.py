"""Settings: what goes over what, what stops the start, and that the page about it is true."""

from __future__ import annotations

import hashlib
import re
import stat
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

import agentgate
from agentgate.core.call import PrincipalKind, Role
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_loopback
from agentgate.core.redaction.marks import Mode
from agentgate.keyfile import add_key, key_file, read_keys
from agentgate.settings import (
    DEFAULT_SECRETS,
    ENVIRONMENT,
    EnvRef,
    FileRef,
    Key,
    Settings,
    load,
    load_yaml,
    refuse_public_without_keys,
    unread,
)
from agentgate.settings.variables import READ

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
SECRET = "correct-horse-battery-staple-gun"
HEX = hashlib.sha256(b"a key").hexdigest()


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agentgate.yaml"
    path.write_text(text)
    return path


def _refusal(environment: dict[str, str] | None = None, config: Path | None = None, **more: Any) -> str:
    with pytest.raises(UnsafeConfiguration) as caught:
        load(environment or {}, config=config, **more)
    sentence = str(caught.value)
    assert len(sentence.split()) >= 4, sentence
    return sentence


# --- precedence -------------------------------------------------------------------------------------------------------


def test_nothing_configured_is_a_local_gateway_on_loopback() -> None:
    settings = load({})
    assert settings == Settings()
    assert (settings.containment.kind, settings.policy.kind, settings.is_loopback) == ("local", "wasm", True)


def test_command_line_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = _file(tmp_path, "server: {port: 1111, host: 127.0.0.2, log_level: DEBUG}")
    assert load({}, config=path).server.port == 1111
    environment = {"AGENTGATE_PORT": "2222", "AGENTGATE_CONFIG": str(path)}
    assert load(environment).server.port == 2222
    settings = load(environment, overrides={"server.port": 3333, "server.host": None})
    assert (settings.server.port, settings.server.host, settings.server.log_level) == (3333, "127.0.0.2", "DEBUG")
    assert settings.server.workers == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "auth: {keys: []}\nserver: {}\nauth: {envelope_window_s: 30}\n",
            "line 3, column 1, where a name is there twice",
        ),
        ("server: {port: 1, host: 127.0.0.1, port: 2}", "line 1, column 36, where a name is there twice"),
        ("auth: [{id: k1}]", "auth: must be a mapping"),
        ("server: 8000", "server: must be a mapping"),
        ("containment: redis://127.0.0.1", "containment: must be a mapping"),
        ("server: {<<: {host: a, host: b}}", "line 1, column 24, where a name is there twice"),
        ("server: {workers: yes}", "server.workers: must be a number"),
        ("retention: {compress_after_days: yes}", "retention.compress_after_days: must be a number"),
        ("upstreams: {a: {kind: http, base_url: https://a.example, timeout_ms: yes}}", "timeout_ms: must be a number"),
        ("a: " + "[" * 30_000, "is not YAML"),
        ("evidence: {timestamp_url: 'http://a..b/'}", "evidence.timestamp_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'http://[x'}", "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'http://a..b'}", "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'http://x:99999'}", "server.base_url: must be http(s)://host[:port][/path]"),
        ('server: {base_url: "http://x\\n"}', "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: gate.example.org}", "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'https://x/path?q'}", "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'https://x/path#q'}", "server.base_url: must be http(s)://host[:port][/path]"),
        ("server: {base_url: 'https:///mcp'}", "server.base_url: must be http(s)://host[:port][/path]"),
    ],
)
def test_what_is_written_wrongly_stops_the_start_whatever_goes_over_it(tmp_path: Path, text: str, words: str) -> None:
    over = {"AGENTGATE_ADMIN_API_KEY": SECRET, "AGENTGATE_PORT": "1", "AGENTGATE_RATE_WINDOW_SECONDS": "60"}
    with pytest.raises(UnsafeConfiguration) as refused:
        load(over, config=_file(tmp_path, text))
    assert words in str(refused.value)


def test_a_mapping_that_merges_and_is_merged_may_say_otherwise_than_what_it_merges(tmp_path: Path) -> None:
    text = (
        "server: {host: 127.0.0.1, workers: 1}\n"
        "retention: &A {<<: &B {days: 100}, days: 200}\n"
        "x: &C {<<: *A, days: 300}\n"
    )
    assert load_yaml(text + "y: {<<: *C}\n")["y"] == {"days": 300}
    assert load_yaml(text, quickly=True)["x"] == {"days": 300}


def test_file_of_the_command_line_goes_over_the_variable(tmp_path: Path) -> None:
    path = _file(tmp_path, "server: {port: 1111}")
    assert load({"AGENTGATE_CONFIG": str(tmp_path / "other.yaml")}, config=path).server.port == 1111


def test_empty_variable_and_empty_file_are_nothing(tmp_path: Path) -> None:
    empty = dict.fromkeys([*ENVIRONMENT, "AGENTGATE_CONFIG", "AGENTGATE_TRACE_DB"], "")
    assert load(empty) == load({}, config=_file(tmp_path, "# nothing\n")) == Settings()


VALUES = {
    "AGENTGATE_DATA_DIR": ("/x", Path("/x")),
    "AGENTGATE_PORT": ("9", 9),
    "AGENTGATE_BASE_URL": ("https://a.example", "https://a.example"),
    "AGENTGATE_WORKERS": ("1", 1),
    "AGENTGATE_HOSTS": ("a.example, b.example,", ("a.example", "b.example")),
    "AGENTGATE_ORIGINS": ("https://a.example", ("https://a.example",)),
    "AGENTGATE_LOG_LEVEL": ("ERROR", "ERROR"),
    "AGENTGATE_POLICY_PATH": ("/p", Path("/p")),
    "AGENTGATE_CHECKPOINT_FILE": ("/c", Path("/c")),
    "AGENTGATE_RATE_WINDOW_SECONDS": ("1.5", 1.5),
    "AGENTGATE_REDACTION_MODE": ("redact", Mode.REDACT),
    "AGENTGATE_RETENTION_DAYS": ("200", 200),
    "AGENTGATE_WEBHOOK_ALLOW_PRIVATE": ("true", True),
}
BESIDES = {"AGENTGATE_RETENTION_DATABASE_URL": {"AGENTGATE_DATABASE_URL": "postgresql://x"}}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_variable_sets_its_place(variable: str) -> None:
    text, value = VALUES.get(variable, (SECRET, SECRET))
    found: Any = load({variable: text, **BESIDES.get(variable, {})})
    for name in ENVIRONMENT[variable]:
        found = getattr(found, name)
    assert found == value


def test_v02_variables_keep_their_meaning() -> None:
    settings = load(
        {
            "AGENTGATE_TRACE_DB": "./traces.db",
            "AGENTGATE_POLICY_VERSION": "v7",
            "AGENTGATE_RATE_WINDOW_SECONDS": "30",
            "AGENTGATE_REDIS_URL": "redis://localhost:6379/0",
            "AGENTGATE_OPA_URL": "http://localhost:8181",
            "AGENTGATE_DATABASE_URL": "sqlite:///elsewhere.db",
        }
    )
    assert settings.log.url == "sqlite:///./traces.db"
    assert (settings.policy.label, settings.policy.kind, settings.policy.url) == ("v7", "opa", "http://localhost:8181")
    assert (settings.containment.rate_window_s, settings.containment.kind) == (30, "redis")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).server.port = 1


@pytest.mark.parametrize("how", ["variable", "file"])
def test_hmac_key_is_read_from_where_it_is_named(tmp_path: Path, how: str) -> None:
    secret = tmp_path / "hmac.key"
    secret.write_text(SECRET + "\n")
    named = "{env: MY_KEY}" if how == "variable" else f"{{file: {secret}}}"
    path = _file(tmp_path, f"evidence: {{hmac_key: {named}}}")
    assert load({"MY_KEY": SECRET}, config=path).evidence.signing_key == SECRET


# --- what stops the start ---------------------------------------------------------------------------------------------

SECRETS = {
    "AGENTGATE_ADMIN_API_KEY", "AGENTGATE_SIGNING_KEY", "AGENTGATE_APPROVAL_TOKEN", "AGENTGATE_WEBHOOK_SECRET",
}  # fmt: skip


@pytest.mark.parametrize("variable", sorted(SECRETS))
@pytest.mark.parametrize("secret", [*sorted(DEFAULT_SECRETS), "short", "a" * 40, "abab" * 10, "x" * 15])
def test_default_or_guessable_secret_stops_the_start(variable: str, secret: str) -> None:
    sentence = _refusal({variable: secret})
    assert variable in sentence
    assert secret not in sentence


def test_one_secret_for_two_purposes_stops_the_start() -> None:
    sentence = _refusal(dict.fromkeys(SECRETS, SECRET))
    assert "its own secret" in sentence
    assert SECRET not in sentence


def _keys(*keys: str) -> str:
    return "auth: {keys: [" + ", ".join(keys) + "]}"


def test_a_key_shorter_than_the_hash_that_it_makes_stops_the_start() -> None:
    key = "0123456789abcdefghijklmnopqrstuv"
    assert load({"AGENTGATE_SIGNING_KEY": key}).evidence.signing_key == key
    assert "32" in _refusal({"AGENTGATE_SIGNING_KEY": key[:-1]})
    assert load({"AGENTGATE_ADMIN_API_KEY": key[:16]}).auth.admin_key == key[:16]
    assert load({"AGENTGATE_SIGNING_KEY": key[:-2] + "é"}), "bytes count, not characters"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


ADMIN_DEFAULT = _digest("admin-secret-change-me")
UNSAFE = {
    "workers on sqlite": ("server: {workers: 2}", {}, "PostgreSQL"),
    "workers on local kill flags": ("{server: {workers: 2}, log: {url: 'postgresql://x'}}", {}, "kill flags"),
    "opa without url": ("policy: {kind: opa}", {}, "AGENTGATE_OPA_URL"),
    "redis without url": ("containment: {kind: redis}", {}, "AGENTGATE_REDIS_URL"),
    "local with url": ("containment: {kind: local}", {"AGENTGATE_REDIS_URL": "redis://x"}, "drop one"),
    "wasm with url": ("policy: {kind: wasm}", {"AGENTGATE_OPA_URL": "http://x"}, "drop one"),
    "hashes without a key": ("redaction: {mode: hash}", {}, "redaction.key"),
    "tokens without a key": ("{}", {"AGENTGATE_REDACTION_MODE": "tokenize"}, "redaction.key"),
    "a short redaction key": ("redaction: {mode: hash}", {"AGENTGATE_REDACTION_KEY": SECRET[:31]}, "32"),
    "admin key not ascii": ("{}", {"AGENTGATE_ADMIN_API_KEY": "schlüssel-mit-umlauten"}, "ASCII"),
    "stamps of nobody": ("evidence: {timestamp_required: true}", {}, "timestamp_url"),
    "stamps of nobody, with roots": ("evidence: {timestamp_ca: ca.pem}", {}, "timestamp_url"),
    "less than the floor": ("retention: {days: 182}", {}, "force_below_floor"),
    "less than the floor, by variable": ("{}", {"AGENTGATE_RETENTION_DAYS": "30"}, "183"),
    "a retention role without its database": ("{}", {"AGENTGATE_RETENTION_DATABASE_URL": "postgresql://x"}, "SQLite"),
    "two keys of one id": (
        _keys(f"{{id: k, sha256: {HEX}, agent: a}}", f"{{id: k, sha256: {'0' * 64}, agent: b}}"),
        {},
        "k",
    ),
    "one key for two": (
        _keys(f"{{id: k, sha256: {HEX}, agent: a}}", f"{{id: l, sha256: {HEX}, agent: b}}"),
        {},
        "its own",
    ),
    "agent with the admin's key": (
        _keys(f"{{id: k, sha256: {hashlib.sha256(SECRET.encode()).hexdigest()}, agent: a}}"),
        {"AGENTGATE_ADMIN_API_KEY": SECRET},
        "the admin key",
    ),
    "default key": (_keys(f"{{id: k, sha256: {ADMIN_DEFAULT}, agent: a}}"), {}, "everybody knows"),
    "key that is a word": (_keys(f"{{id: k, sha256: {_digest('test')}, agent: a}}"), {}, "everybody knows"),
    "key that is nothing": (_keys(f"{{id: k, sha256: {_digest('')}, agent: a}}"), {}, "everybody knows"),
    "key of nobody": (_keys(f"{{id: k, sha256: {HEX}}}"), {}, "person"),
    "key of two": (_keys(f"{{id: k, sha256: {HEX}, agent: a, person: b}}"), {}, "person"),
    "key of a strange name": (_keys(f"{{id: k, sha256: {HEX}, agent: 'a/b'}}"), {}, "auth.keys"),
    "key in the clear": (_keys("{id: k, sha256: my-plain-key, agent: a}"), {}, "auth.keys"),
    "key without a zone": (_keys(f"{{id: k, sha256: {HEX}, agent: a, expires: 2027-01-01T00:00:00}}"), {}, "zone"),
    "key of an unknown role": (_keys(f"{{id: k, sha256: {HEX}, agent: a, roles: [root]}}"), {}, "roles"),
    "unset hmac variable": ("evidence: {hmac_key: {env: NOT_SET}}", {}, "NOT_SET"),
    "missing hmac file": ("evidence: {hmac_key: {file: /not/there}}", {}, "/not/there"),
    "unknown section": ("sever: {port: 1}", {}, "sever"),
    "unknown member": ("server: {prot: 1}", {}, "server.prot"),
    "no mapping": ("- server", {}, "mapping"),
    "section that is a word": ("containment: redis", {}, "containment"),
    "policy that is a list": ("policy: [opa]", {}, "policy"),
    "host that no resolver can be asked for": ("server: {host: a..b}", {}, "server.host: must be an address"),
    "checkpoints sent to no host": (
        "log: {checkpoint_webhook: {url: 'https://a..b/x'}}",
        {},
        "url: must be http(s)://",
    ),
    "checkpoints sent nowhere": ("log: {checkpoint_webhook: {url: 'https://[x'}}", {}, "url: must be http(s)://"),
    "a witness without a host": ("log: {witnesses: [{url: 'http:///', vkey: x}]}", {}, "url: must be http(s)://"),
    "port out of range": ("server: {port: 65536}", {}, "server.port"),
    "port that is a word": ("{}", {"AGENTGATE_PORT": "http"}, "server.port"),
    "endless window": ("containment: {rate_window_s: .inf}", {}, "rate_window_s"),
    "no window": ("containment: {rate_window_s: .nan}", {}, "rate_window_s"),
    "endless approvals": ("approvals: {ttl_s: 1.0e+300}", {}, "ttl_s"),
    "an origin that no browser has": ("server: {origins: [not an origin]}", {}, "server.origins: each must be"),
    "an origin with a path": ("server: {origins: ['https://a.example/x']}", {}, "server.origins: each must be"),
    "an origin without a scheme": ("{}", {"AGENTGATE_ORIGINS": "https://a.example,b.example"}, "server.origins"),
    "a log without a name": ("log: {origin: ''}", {}, "log.origin: must be a name"),
    "a log with a name of two words": ("log: {origin: a b}", {}, "log.origin: must be a name"),
    "a log whose name a key could not say": ("log: {origin: a+b}", {}, "log.origin: must be a name"),
    "a log with a name that nobody sees": ('log: {origin: "a\\0b"}', {}, "log.origin: must be a name"),
    "log level": ("{}", {"AGENTGATE_LOG_LEVEL": "LOUD"}, "log_level"),
    "tool with a slash": ("tools: {'a/b': {upstream: x, access: read, input_schema: {}}}", {}, "tool name"),
    "tool of unknown access": ("tools: {a: {upstream: x, access: execute, input_schema: {}}}", {}, "access"),
    "upstream that cannot be killed": ("upstreams: {'a/b': {kind: http}}", {}, "name"),
    "alias with a line end": ('credentials: {"a\\nb": {kind: env}}', {}, "name"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_combination_stops_the_start_with_a_sentence(tmp_path: Path, case: str) -> None:
    text, environment, told = UNSAFE[case]
    assert told in _refusal(environment, _file(tmp_path, text))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "gate.example.org", "127.0.0.1.example.org", ""])
def test_public_address_without_an_agent_key_stops_the_start(host: str) -> None:
    settings = load({}, overrides={"server.host": host})
    with pytest.raises(UnsafeConfiguration, match="agentgate keys create"):
        refuse_public_without_keys(settings, has_agent_keys=False)
    refuse_public_without_keys(settings, has_agent_keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    refuse_public_without_keys(load({}, overrides={"server.host": host}), has_agent_keys=False)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("AGENTGATE_PROT", "AGENTGATE_PORT"),
        ("AGENTGATE_WORKER", "AGENTGATE_WORKERS"),
        ("AGENTGATE_REDIS_URI", "AGENTGATE_REDIS_URL"),
        ("AGENTGATE_REIDS_URL", "AGENTGATE_REDIS_URL"),
        ("AGENTGATE_DATABSE_URL", "AGENTGATE_DATABASE_URL"),
        ("AGENTGATE_SIGNINGKEY", "AGENTGATE_SIGNING_KEY"),
        ("AGENTGATE_CONFG", "AGENTGATE_CONFIG"),
        ("AGENTGATE_TRACEDB", "AGENTGATE_TRACE_DB"),
    ],
)
def test_a_misspelt_variable_stops_the_start_and_is_told_what_it_was_meant_to_be(variable: str, meant: str) -> None:
    sentence = _refusal({variable: CANARY})
    assert f"no variable {variable}; did you mean {meant}?" in sentence
    assert CANARY not in sentence
    assert load({variable: ""}) == Settings(), "empty is unset"


def test_the_address_of_a_service_of_our_name_is_no_port() -> None:
    sentence = _refusal({"AGENTGATE_PORT": "tcp://10.96.7.3:8000"})
    assert "enableServiceLinks: false" in sentence
    said = {"server.port": 8000}  # as the image's own command does
    assert load({"AGENTGATE_PORT": "tcp://10.96.7.3:8000"}, overrides=said).server.port == 8000


OTHERS = [
    *["AGENTGATE_SERVICE_HOST", "AGENTGATE_SERVICE_PORT", "AGENTGATE_PORT_8000_TCP", "AGENTGATE_REDIS_PORT"],
    *["AGENTGATE_CONFIG_FILE", "AGENTGATE_SIGNING_KEY_FILE", "AGENTGATE_OPA_TOKEN_FILE", "AGENTGATE_PUBLISH"],
    *["AGENTGATE_OPA_KEY", "AGENTGATE_AGENT_KEY_SHA256", "AGENTGATE_ROOT", "AGENTGATE_TEST", "AGENTGATE_KEYS"],
    *["AGENTGATE_TRACE_ID", "AGENTGATE_POLICY_HASH", "AGENTGATE_TRACE_DIR"],
]
"""What Kubernetes sets for services of these names, compose files, and people for purposes of their own."""


def test_a_variable_that_is_none_of_ours_is_known_to_be_unread() -> None:
    environment = dict.fromkeys(OTHERS, "1") | {"PORT": "1", "AGENTGATE_WORKERS": "1", "AGENTGATE_KEY": "k"}
    assert unread(load(environment), environment) == sorted(OTHERS)


@pytest.mark.parametrize(
    "text",
    [
        "evidence: {hmac_key: {env: AGENTGATE_SIGNING_KEY2}}",
        "webhooks: [{url: {env: AGENTGATE_SIGNING_KEY2}, secret: x}]",
        "credentials: {c: {kind: vault, auth: &a {self: *a, token: {env: AGENTGATE_SIGNING_KEY2}}}}",
    ],
)
def test_a_variable_that_the_configuration_names_is_the_operators_own(tmp_path: Path, text: str) -> None:
    environment = {"AGENTGATE_SIGNING_KEY2": SECRET}
    assert unread(load(environment, config=_file(tmp_path, text)), environment) == []
    assert "AGENTGATE_SIGNING_KEY?" in _refusal(environment)


def test_the_variables_that_are_known_are_those_that_the_code_names() -> None:
    code = "\n".join(path.read_text() for path in Path(agentgate.__file__).parent.rglob("*.py"))
    assert set(re.findall(r"\bAGENTGATE_[A-Z_]*[A-Z]\b", code)) | set(ENVIRONMENT) == READ


CANARY = "canary-secret-9f8e7d6c"


@pytest.mark.parametrize(
    "text",
    [
        f"webhook: {{secret: {CANARY}",
        f"auth:\n  admin_key: {CANARY}\n bad: indent",
        f"auth: {{admin_key: [{CANARY}]}}",
        f"auth: {{admin_key: {{x: {CANARY}}}}}",
        f"evidence: {{hmac_key: {CANARY}}}",
        f"auth: {{keys: [{{id: k, sha256: {CANARY}, agent: a}}]}}",
        f"approvals: {{ttl_s: {CANARY}}}",
        f"policy: {{token: {CANARY}, kind: opa}}",
        f"server: {{port: {CANARY}}}",
        f"webhook: '{CANARY}'",
        f"log: {{url: 'postgresql://u:{CANARY}@h/d', origin: 5}}",
        f"webhook: {{secret: {CANARY}}}\ntools: 3",
        f"webhook: &{CANARY} *unknown",
    ],
)
def test_refusal_never_says_a_secret(tmp_path: Path, text: str) -> None:
    assert CANARY not in _refusal({}, _file(tmp_path, text))


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"\x00", b"a: \xff", b"a: 2027-01-01T99:00:00Z", b"[" * 2_000])
def test_file_that_is_no_text_is_a_sentence(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "agentgate.yaml"
    path.write_bytes(raw)
    assert "not YAML" in _refusal({}, path)
    key = tmp_path / "hmac.key"
    key.write_bytes(b"\xff" * 32)
    assert "not text" in _refusal({}, _file(tmp_path, f"evidence: {{hmac_key: {{file: {key}}}}}"))


def test_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be read" in _refusal({"AGENTGATE_CONFIG": str(tmp_path / "none.yaml")})


def test_file_runs_no_code(tmp_path: Path) -> None:
    assert "not YAML" in _refusal({}, _file(tmp_path, "server: !!python/object/apply:os.getcwd []"))


# --- keys that `keys create` made -------------------------------------------------------------------------------------

FULL = Key(
    id="k1",
    sha256=HEX,
    person="alice",
    roles=(Role.OPERATOR, Role.APPROVER),
    tenant="acme",
    all_tenants=True,
    expires=datetime(2027, 1, 1, tzinfo=UTC),
)


def test_key_file_gives_its_keys_back_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = key_file(tmp_path / "new" / "data")
    plain = Key(id="k2", sha256="0" * 64, agent="bot")
    assert read_keys(path) == ()
    add_key(path, FULL)
    add_key(path, plain)
    assert read_keys(path) == (FULL, plain)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "no half-written file is left"


def test_key_knows_its_principal() -> None:
    known = FULL.known()
    who = known.principal
    assert (known.sha256, known.expires, who.id, who.kind) == (HEX, FULL.expires, "person:alice", PrincipalKind.PERSON)
    assert (who.tenant, who.tenants_all, who.key_id) == ("acme", True, "k1")
    assert who.roles == {Role.OPERATOR, Role.APPROVER}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.yaml"
    add_key(path, FULL)
    path.chmod(mode)
    with pytest.raises(UnsafeConfiguration, match="chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    "raw",
    [
        *[b"{", b"\xff", b"hello", b"{a: 1}", b"[{id: k}]", b"[1]", b"- {id: k, sha256: canary-x, agent: a}"],
        *[b"- {id: k, expires: 2027-02-30}"],
    ],
)
def test_key_file_that_is_damaged_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(raw)
    path.chmod(0o600)
    with pytest.raises(UnsafeConfiguration, match="key file") as caught:
        read_keys(path)
    assert "canary" not in str(caught.value)


def test_damaged_key_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"{")
    path.chmod(0o600)
    with pytest.raises(UnsafeConfiguration):
        add_key(path, FULL)
    assert path.read_bytes() == b"{"


# --- docs/configuration.md -----------------------------------------------------------------------------------------


def _shown(default: Any) -> str:
    if default is None or default in ("", ()):
        return "–"
    if isinstance(default, tuple):
        return f"`{' '.join(str(item) for item in default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _models(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models within an annotation, with how their place is written."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in (EnvRef, FileRef):  # written as a value, not as a section
            yield "", annotation
    elif get_origin(annotation) in (dict, tuple):
        wildcard = ".*" if get_origin(annotation) is dict else "[]"
        for argument in get_args(annotation):
            yield from ((wildcard + more, model) for more, model in _models(argument))
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for wildcard, part in inner:
            yield from _settings(part, f"{prefix}{name}{wildcard}.")
        if not inner:
            yield (
                prefix + name,
                "required" if field.is_required() else _shown(field.get_default(call_default_factory=True)),
            )


SETTINGS = dict(_settings(Settings))


def test_page_lists_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.*\[\]]+)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert dict(rows) == SETTINGS
    assert len(rows) == len(SETTINGS)


def test_page_lists_every_variable_with_its_place_and_default() -> None:
    rows = re.findall(r"^\| `(AGENTGATE_\w+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    wanted = {variable: (f"`{'.'.join(place)}`", SETTINGS[".".join(place)]) for variable, place in ENVIRONMENT.items()}
    wanted |= {"AGENTGATE_CONFIG": ("–", "–"), "AGENTGATE_TRACE_DB": ("`log.url`", "–")}
    assert {variable: (place, default) for variable, place, default in rows} == wanted
    assert len(rows) == len(wanted)


def test_example_of_the_page_is_accepted_and_uses_every_section(tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
    settings = load({"AGENTGATE_SIGNING_KEY": SECRET}, config=_file(tmp_path, example))
    assert set(yaml.safe_load(example)) == set(Settings.model_fields)
    assert settings.tools["create_ticket"].options == {"method": "POST", "path": "/tickets"}
    assert settings.auth.keys[0].known().expires == datetime(2027, 1, 1, tzinfo=UTC)
