"""What redaction costs: milliseconds for 100 kB of arguments of several kinds, and microseconds for a usual call."""

from __future__ import annotations

import base64
import hashlib
import random
import statistics
import time
import uuid
from typing import Any

import orjson

from agentgate.core.redaction.marks import Marks, Mode
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.strict_json import canonical
from agentgate.kinds import make_redactor
from agentgate.settings import Settings

SIZE = 100_000
MOST_MS = 20
"""The issue's, for 100 kB of arguments."""
_WORDS = """
    select name from products where order status shipped customer invoice amount total price region europe insert
    values into table the of and to report weekly summary monthly review draft
    """.split()  # noqa: SIM905 - a list of words reads as one
_FOREIGN_WORDS = """
    Zürich Straße größer Müller naïve café élève Łódź señor mañana Москва заказ отчёт покупатель цена Αθήνα παραγγελία
    東京 データ 注文 発送 서울 주문 القاهرة € “ok” – …
    """.split()  # noqa: SIM905 - as above
_SECRETS = (
    "write to canary{n}@example.org", "password=hunter{n}", "with AKIACANARY0123456789", "call +41 44 668 18 00",
    "pay GB82 WEST 1234 5698 7654 32", "card 4111 1111 1111 1111", "ssn 123-45-6789", "sk-CANARY0123456789abcdef{n}",
)  # fmt: skip


def measure(*, rounds: int) -> list[str]:
    """The section's lines."""
    usual = canonical({"query": "SELECT id, name, price FROM products WHERE category = 'tools' LIMIT 20", "limit": 20})
    with_id = canonical(
        {
            **orjson.loads(usual),
            "request_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, "example.org")),
            "at": "2026-11-21T10:00:00Z",
        }
    )
    rows = _rows()
    dirty = _with_secrets(rows, 50)
    documents = {
        "a usual call": usual,
        "a usual call with a UUID and a time": with_id,
        "rows, clean": canonical({"rows": rows}),
        "rows, 50 secrets": canonical({"rows": dirty}),
        "rows, 50 secrets, of these 20 encoded": canonical({"rows": _with_encoded(dirty, 20)}),
        "rows, 50 secrets, JSON in JSON": canonical({"doc": orjson.dumps(dirty).decode()}),
        "rows, 50 secrets, each row in base64": canonical({"rows": [_base64(orjson.dumps(row)) for row in dirty]}),
        "rows, 50 secrets, notes not in ASCII": canonical({"rows": _with_secrets(_in_other_words(rows), 50)}),
        "one text not in ASCII": canonical({"text": _foreign(random.Random(3), words=9_000)}),
        "one text, 1,000 secrets": canonical({"text": _text(1000)}),
        "a picture in base64": canonical({"picture": _base64(random.Random(1).randbytes(SIZE * 3 // 4))}),
    }
    redactors = {
        "`redact`": make_redactor(Settings()),
        "`tokenize` and a pattern": make_redactor(
            Settings.model_validate(
                {"redaction": {"mode": "tokenize", "secret": "k" * 32, "patterns": {"b": r"EMP-\d+"}}}
            )
        ),
        "names alone": Redactor(Marks(Mode.REDACT)),
    }
    lines = [
        f"Medians of {rounds} rounds, CPU time of one thread. To reach: less than {MOST_MS} ms for 100 kB.",
        "",
        f"| arguments | bytes | {' | '.join(redactors)} |",
        f"|---|---|{'---|' * len(redactors)}",
    ]
    missed = []
    for name, raw in documents.items():
        times = [_seconds(redactor, raw, rounds) for redactor in redactors.values()]
        shown = [f"{t * 1e3:.1f} ms" if len(raw) > 1000 else f"{t * 1e6:.1f} µs" for t in times]
        lines.append(f"| {name} | {len(raw):,} | {' | '.join(shown)} |")
        if times[0] / len(raw) * SIZE > MOST_MS / 1e3 and len(raw) > 1000:
            missed.append(f"**Missed**: {name}: {times[0] / len(raw) * SIZE * 1e3:.0f} ms for 100 kB.")
    return [*lines, *(["", *missed] if missed else [])]


def _seconds(redactor: Redactor, raw: bytes, rounds: int) -> float:
    times = []
    repeat = 1 if len(raw) > 1000 else 1000
    for _ in range(rounds):
        before = time.process_time()
        for _ in range(repeat):
            redactor.json(raw)
        times.append((time.process_time() - before) / repeat)
    return statistics.median(times)


def _rows() -> list[dict[str, Any]]:
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    while len(orjson.dumps(rows)) < SIZE:
        n = len(rows)
        rows.append(
            {
                "id": n,
                "uuid": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                "created_at": f"2026-11-21T10:{n % 60:02}:00.000Z",
                "sku": f"SKU-{n:05}",
                "price": f"{rng.randrange(500)}.{rng.randrange(100):02}",
                "sha256": hashlib.sha256(str(n).encode()).hexdigest(),
                "note": _text(0, words=10, rng=rng),
                "path": f"/var/lib/app/data/{n}/file.txt",
            }
        )
    return rows


def _with_secrets(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    chosen = {len(rows) * n // count: _SECRETS[n % len(_SECRETS)].format(n=n) for n in range(count)}
    return [{**row, "note": f"{row['note']} {chosen[n]}"} if n in chosen else row for n, row in enumerate(rows)]


def _in_other_words(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [{**row, "note": _foreign(rng, words=9)} for row in rows]


def _foreign(rng: random.Random, *, words: int) -> str:
    return " ".join([rng.choice(_FOREIGN_WORDS) for _ in range(words)])


def _with_encoded(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    chosen = [n for n, row in enumerate(rows) if len(row["note"].split()) > 10][:count]
    return [{**row, "note": _base64(row["note"].encode())} if n in chosen else row for n, row in enumerate(rows)]


def _text(secrets: int, *, words: int = 15_000, rng: random.Random | None = None) -> str:
    rng = rng or random.Random(2)
    said = [rng.choice(_WORDS) for _ in range(words)]
    for n in range(secrets):
        said[n * words // secrets] = _SECRETS[n % len(_SECRETS)].format(n=n)
    return " ".join(said)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
