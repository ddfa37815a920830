"""A time stamp authority on loopback: OpenSSL's, behind a small HTTP server, which can be told to misbehave."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.web import Handler, serving

_CONFIG = """
[tsa]
default_tsa = one
[one]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.3.6.1.4.1.4146.2
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
"""
_EXTENSIONS = """
extendedKeyUsage = critical, timeStamping
keyUsage = critical, digitalSignature
"""


class TimestampServer:
    """`ca` is the root that its stamps lead to. `answer` replaces replies; `is_silent` gives none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = folder / "ca.pem"
        self.url = ""
        self.asked = 0
        self.status = 200
        self.answer: bytes | None = None
        self.go_on = threading.Event()
        """Replies wait for it."""
        self.go_on.set()
        self._make_keys()

    def _make_keys(self) -> None:
        openssl(self._folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Test root",
                "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
        openssl(self._folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Test authority",
                "-keyout", "tsa.key", "-out", "tsa.csr")  # fmt: skip
        (self._folder / "extensions").write_text(_EXTENSIONS, encoding="utf-8")
        openssl(self._folder, "x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-set_serial", "2",
                "-days", "2", "-extfile", "extensions", "-out", "tsa.pem")  # fmt: skip
        (self._folder / "tsa.cnf").write_text(_CONFIG, encoding="utf-8")
        (self._folder / "serial").write_text("01\n", encoding="utf-8")

    def reply(self, query: bytes) -> bytes:
        """A TimeStampResp as OpenSSL makes it."""
        (self._folder / "query").write_bytes(query)
        openssl(self._folder, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
        return (self._folder / "reply").read_bytes()

    @contextmanager
    def serving(self) -> Iterator[TimestampServer]:
        with serving(_handler(self)) as url:
            self.url = f"{url}/"
            try:
                yield self
            finally:
                self.go_on.set()


def _handler(authority: TimestampServer) -> type[Handler]:
    class Authority(Handler):
        def do_POST(self) -> None:
            authority.asked += 1
            assert self.headers["Content-Type"] == "application/timestamp-query"
            query = self.given()
            authority.go_on.wait(30)
            reply = authority.answer if authority.answer is not None else authority.reply(query)
            self.say(authority.status, reply, "application/timestamp-reply")

    return Authority


def openssl(folder: Path, *arguments: str) -> None:
    """Run OpenSSL in `folder`."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)
