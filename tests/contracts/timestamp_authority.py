"""What every time stamp authority promises: a stamp of this very message, or a refusal that says why."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agentgate.core.errors import TimestampUnavailable
from agentgate.ports.evidence import TimestampAuthority


class TimestampAuthorityContract:
    """Subclasses give fixtures: `authority`, `ca` (its root, in PEM), and `down`, one that nobody answers for."""

    async def test_a_stamp_is_one_for_openssl(self, authority: TimestampAuthority, ca: Path, tmp_path: Path) -> None:
        stamp = await authority.stamp(b"a signature")
        (tmp_path / "stamp").write_bytes(stamp)
        for message, status in ((b"a signature", 0), (b"another", 1)):
            (tmp_path / "message").write_bytes(message)
            ran = subprocess.run(
                ["openssl", "ts", "-verify", "-data", "message", "-in", "stamp", "-CAfile", ca],
                cwd=tmp_path,
                capture_output=True,
                check=False,
            )
            assert ran.returncode == status, ran.stderr

    async def test_silence_is_a_refusal(self, down: TimestampAuthority) -> None:
        with pytest.raises(TimestampUnavailable, match=r"\w+ \w+ \w+"):
            await down.stamp(b"a signature")
