"""Calls of the built-ins that the embedded engine offers itself, and what OPA answers. Both engines run them.

POLICY evaluates `input.args` by the built-in that `input.name` names.
"""

from __future__ import annotations

from typing import Any, Final

FAILS: Final = object()
"""The built-in fails: no decision, in either engine."""

ARITY: Final = {
    "crypto.hmac.equal": 2,
    "crypto.hmac.sha256": 2,
    "crypto.sha256": 1,
    "hex.decode": 1,
    "hex.encode": 1,
    "sprintf": 2,
    "strings.any_prefix_match": 2,
    "strings.any_suffix_match": 2,
    "time.add_date": 4,
    "time.clock": 1,
    "time.date": 1,
    "time.parse_rfc3339_ns": 1,
    "time.weekday": 1,
    "units.parse_bytes": 1,
    "urlquery.decode": 1,
    "urlquery.encode": 1,
}

POLICY: Final = (
    'package agentgate\n\ndecision := {"value": value}\n\ntools := {}\n\n'
    + "".join(
        f'value := {name}({", ".join(f"input.args[{n}]" for n in range(arity))}) if input.name == "{name}"\n\n'
        for name, arity in ARITY.items()
    )
    # Sets cannot arrive in JSON: these make them of arrays first.
    + 'value := sprintf(input.args[0], [{x | some x in input.args[1]}]) if input.name == "sprintf of a set"\n\n'
    + "value := strings.any_prefix_match({x | some x in input.args[0]}, {x | some x in input.args[1]}) if"
    ' input.name == "prefixes of a set"\n\n'
    + 'value := now if {\n\tinput.name == "now twice"\n\tnow := time.now_ns()\n\tnow == time.now_ns()\n\tnow > 0\n}\n'
)

NOON: Final = 1_795_176_000_000_000_000
"""2026-11-20T12:00:00Z, a Friday."""

VECTORS: Final[tuple[tuple[str, list[Any], Any], ...]] = (
    ("sprintf", ["plain", []], "plain"),
    ("sprintf", ["%s-%s", ["a", 'q"\\\n\u0000é😀']], 'a-q"\\\n\u0000é😀'),
    ("sprintf", ["%v %v %v %v", [True, False, None, "x"]], "true false null x"),
    ("sprintf", ["%s %s", [True, None]], "true null"),
    ("sprintf", ["%d|%v", [42, -7]], "42|-7"),
    ("sprintf", ["%d", [9007199254740991]], "9007199254740991"),
    ("sprintf", ["%5d|%05d|%3s", [-3, -3, "ab"]], "   -3|-0003| ab"),
    ("sprintf", ["%x %X %x %X", [255, 255, "hé", "hé"]], "ff FF 68c3a9 68C3A9"),
    (
        "sprintf",
        ["%q", ['a"b\\\n\t\u0007\u0000\u007f é😀\u200b\u202e\u0301']],
        '"a\\"b\\\\\\n\\t\\a\\x00\\x7f é😀\\u200b\\u202e\u0301"',
    ),
    ("sprintf", ["%q", ["\U0010ffff\ufdd0\ufeff\u2028"]], '"\\U0010ffff\\ufdd0\\ufeff\\u2028"'),
    ("sprintf", ["%f %.2f %.0f", [1.5, 2.675, 0.5]], "1.500000 2.67 0"),
    ("sprintf", ["%v", [0.5]], "0.5"),
    ("sprintf", ["%v %v %v", [123456.5, 1234567.5, 0.0001]], "123456.5 1.2345675e+06 0.0001"),
    ("sprintf", ["%v %v", [1e300, 0.00001]], "1e+300 1e-05"),
    ("sprintf", ["100%%", []], "100%"),
    ("sprintf", ["%v", [["a", 1, None, [True], 0.5]]], '["a", 1, null, [true], 0.5]'),
    ("sprintf", ["%v", [{"b": 1, "a": {"c": 'x"y'}}]], '{"a": {"c": "x\\"y"}, "b": 1}'),
    ("sprintf", ["%v %v", [[], {}]], "[] {}"),
    ("sprintf", ["%s", [["a"]]], '["a"]'),
    ("sprintf", ["x", "y"], FAILS),
    ("sprintf", [1, []], FAILS),
    (
        "sprintf of a set",
        ["%v", ["b", "a", 10, 9, None, True, "a", [2], [1, 1]]],
        '{null, true, 9, 10, "a", "b", [1, 1], [2]}',
    ),
    ("sprintf of a set", ["%v", []], "set()"),
    ("crypto.sha256", ["abc"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("crypto.sha256", ["é\u0000"], "6133f2d2dc6cad8dbbfc80f0fb587d3e61469954c82d906cce85239e4c6c8bbd"),
    ("crypto.sha256", [1], FAILS),
    (
        "crypto.hmac.sha256",
        ["what do ya want for nothing?", "Jefe"],
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    ("crypto.hmac.equal", ["abc", "abc"], True),
    ("crypto.hmac.equal", ["abc", "abd"], False),
    ("hex.encode", ["hé\n"], "68c3a90a"),
    ("hex.encode", [None], FAILS),
    ("hex.decode", ["68C3a90a"], "hé\n"),
    ("hex.decode", ["6"], FAILS),
    ("hex.decode", ["zz"], FAILS),
    ("hex.decode", ["68 69"], FAILS),
    ("hex.decode", [""], ""),
    ("strings.any_prefix_match", ["/api/x", "/api"], True),
    ("strings.any_prefix_match", ["/API/x", "/api"], False),
    ("strings.any_prefix_match", [["a", "/etc/x"], ["/usr", "/etc"]], True),
    ("strings.any_prefix_match", [["a", "b"], []], False),
    ("strings.any_prefix_match", [[], ["a"]], False),
    ("strings.any_prefix_match", ["x", ["é", "x"]], True),
    ("strings.any_prefix_match", ["x", [1]], FAILS),
    ("strings.any_prefix_match", [1, "x"], FAILS),
    ("prefixes of a set", [["a", "/etc/x"], ["/usr", "/etc"]], True),
    ("strings.any_suffix_match", ["x.pem", [".key", ".pem"]], True),
    ("strings.any_suffix_match", [["a", "b"], "c"], False),
    ("strings.any_suffix_match", ["naïve😀", ["ve😀"]], True),
    ("time.parse_rfc3339_ns", ["2026-11-20T12:00:00Z"], NOON),
    ("time.parse_rfc3339_ns", ["2026-11-20T13:30:00+01:30"], NOON),
    ("time.parse_rfc3339_ns", ["2026-11-20T11:00:00-01:00"], NOON),
    ("time.parse_rfc3339_ns", ["2026-11-20T12:00:00.000000007Z"], NOON + 7),
    ("time.parse_rfc3339_ns", ["1969-12-31T23:59:59.5Z"], -500_000_000),
    ("time.parse_rfc3339_ns", ["2024-02-29T00:00:00Z"], 1_709_164_800_000_000_000),
    ("time.parse_rfc3339_ns", ["2026-02-29T00:00:00Z"], FAILS),
    ("time.parse_rfc3339_ns", ["2026-11-20T24:00:00Z"], FAILS),
    ("time.parse_rfc3339_ns", ["2026-11-20T12:00:60Z"], FAILS),
    ("time.parse_rfc3339_ns", ["2026-11-20 12:00:00Z"], FAILS),
    ("time.parse_rfc3339_ns", ["2026-11-20T12:00:00"], FAILS),
    ("time.parse_rfc3339_ns", ["2026-11-20T12:00:00Z\n"], FAILS),
    ("time.parse_rfc3339_ns", ["9999-11-20T12:00:00Z"], FAILS),
    ("time.parse_rfc3339_ns", ["٢٠٢٦-11-20T12:00:00Z"], FAILS),
    ("time.parse_rfc3339_ns", [0], FAILS),
    ("time.clock", [NOON + 3_725_999_999_999], [13, 2, 5]),
    ("time.clock", [[NOON, "Europe/Berlin"]], [13, 0, 0]),
    ("time.clock", [[NOON, ""]], [12, 0, 0]),
    ("time.clock", [-1], [23, 59, 59]),
    ("time.clock", [[NOON, "Mars/Olympus"]], FAILS),
    ("time.clock", [[NOON, "../../etc/passwd"]], FAILS),
    ("time.clock", ["now"], FAILS),
    ("time.clock", [[]], FAILS),
    ("time.date", [NOON], [2026, 11, 20]),
    ("time.date", [[NOON, "Pacific/Kiritimati"]], [2026, 11, 21]),
    ("time.date", [-1], [1969, 12, 31]),
    ("time.weekday", [NOON], "Friday"),
    ("time.weekday", [[NOON, "Pacific/Kiritimati"]], "Saturday"),
    ("time.add_date", [NOON, 0, 0, 1], NOON + 86_400_000_000_000),
    ("time.add_date", [NOON, 0, 3, 11], 1_804_075_200_000_000_000 - 0),
    ("time.add_date", [1_761_868_800_000_000_000, 0, 1, 0], 1_764_547_200_000_000_000),
    ("time.add_date", [NOON + 5, -1, -13, 0], 1_729_425_600_000_000_005),
    ("time.add_date", [NOON, 300, 0, 0], FAILS),
    ("time.add_date", [NOON, 0.5, 0, 0], FAILS),
    ("units.parse_bytes", ["10"], 10),
    ("units.parse_bytes", ["10KB"], 10_000),
    ("units.parse_bytes", ["10kib"], 10_240),
    ("units.parse_bytes", ["1.5GiB"], 1_610_612_736),
    ("units.parse_bytes", ["0.1mb"], 100_000),
    ("units.parse_bytes", ["0.3k"], 300),
    ("units.parse_bytes", ["1.1g"], 1_100_000_000),
    ("units.parse_bytes", ['"2m"'], 2_000_000),
    ("units.parse_bytes", ["1E"], 1_000_000_000_000_000_000),
    ("units.parse_bytes", ["0"], 0),
    ("units.parse_bytes", ["10 KB"], FAILS),
    ("units.parse_bytes", ["KB"], FAILS),
    ("units.parse_bytes", ["10XB"], FAILS),
    ("units.parse_bytes", [""], FAILS),
    ("units.parse_bytes", [10], FAILS),
    ("urlquery.encode", ["a b&c=d/é~._-*'()"], "a+b%26c%3Dd%2F%C3%A9~._-%2A%27%28%29"),
    ("urlquery.encode", ["\u0000😀+"], "%00%F0%9F%98%80%2B"),
    ("urlquery.decode", ["a+b%26%C3%A9"], "a b&é"),
    ("urlquery.decode", ["%2"], FAILS),
    ("urlquery.decode", ["%zz"], FAILS),
)
"""(built-in, arguments, value or FAILS)"""

NARROWER: Final[tuple[tuple[str, list[Any]], ...]] = (
    ("sprintf", ["%d", ["x"]]),
    ("sprintf", ["%s", [1]]),
    ("sprintf", ["%f", [1]]),
    ("sprintf", ["%t", [True]]),
    ("sprintf", ["%d", []]),
    ("sprintf", ["%d", [1, 2]]),
    ("sprintf", ["%+d", [1]]),
    ("sprintf", ["%-5d", [1]]),
    ("sprintf", ["%*d", [1, 2]]),
    ("sprintf", ["%[1]d", [1]]),
    ("sprintf", ["%", []]),
    ("sprintf", ["%.3s", ["abcdef"]]),
    ("sprintf", ["%100d", [1]]),
    ("time.parse_rfc3339_ns", ["2026-11-20T7:00:00Z"]),
    ("time.parse_rfc3339_ns", ["2026-11-20T07:00:00,5Z"]),
    ("time.clock", [[NOON, "Local"]]),
    ("time.add_date", [[NOON, "Europe/Berlin"], 0, 0, 1]),
    ("hex.decode", ["ff"]),
    ("urlquery.decode", ["%ff"]),
    ("units.parse_bytes", ["1e3"]),
)
"""What OPA answers, with something that a policy hardly meant, and the embedded engine refuses."""
