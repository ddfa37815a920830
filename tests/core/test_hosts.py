"""Which addresses are the internet's, and which are this machine's."""

from __future__ import annotations

import pytest

from agentgate.core.hosts import in_a_header, is_host, is_loopback, is_public


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450:4001::8"]
)
def test_the_internets_own(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *[
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.0.1",
        ],
        *[
            "192.0.0.192",
            "192.88.99.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ],
        *[
            "168.63.129.16",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:8.8.8.8",
            "::ffff:0:808:808",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
        ],
        *[
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:808:808::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fe80::1%eth0",
            "ff02::1",
            "fec0::1",
            "3fff::1",
            "5f00::1",
        ],
        *["", "localhost", "2130706433", "127.1", "8.8.8.8 "],
    ],
)
def test_none_of_the_internets(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["localhost", "a.b.", "a_b.c", "é.example", "x" * 63, "127.0.0.1", "::1", "fe80::1%e"])
def test_what_can_be_looked_up(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize("host", ["a..b", ".a", ".", "x" * 64, f"{'x' * 64}.example", "\u00ad"])
def test_what_no_resolver_can_be_asked_for(host: str) -> None:
    assert not is_host(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_this_machines_own(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "[::]", "10.0.0.7", "127.0.0.1.example.org", "localhost.", "X::1X", ""]
)
def test_not_this_machines_own(host: str) -> None:
    """`0.0.0.0` is every address of it."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("Gate.Lan", "gate.lan"),
        ("gate.lan:8000", "gate.lan"),
        ("2001:DB8:0::1", "[2001:db8::1]"),
        ("[fe80::1%eth0]", "[fe80::1]"),
        ("a:b:1", "a:b:1"),
        ("gate:", "gate:"),
    ],
)
def test_a_host_is_written_in_one_way(written: str, named: str) -> None:
    assert in_a_header(written) == named
