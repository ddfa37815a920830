"""The note that says where a gateway is, and the lock that says whether it still is."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from agentgate import whereabouts
from tests.gateway import GatewayProcess, until

URL = "http://127.0.0.1:4711"
LEAVES_AND_STAYS = """
import sys, time
from pathlib import Path
from agentgate import whereabouts
assert whereabouts.leave(Path(sys.argv[1]), sys.argv[2]) is not None
print("left", flush=True)
time.sleep(60)
"""


def test_who_left_a_note_is_found_while_it_lives_and_not_after(tmp_path: Path) -> None:
    assert whereabouts.find(tmp_path) is None
    with subprocess.Popen(
        (sys.executable, "-c", LEAVES_AND_STAYS, str(tmp_path), URL), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert whereabouts.find(tmp_path) == URL
        assert whereabouts.leave(tmp_path, "http://127.0.0.1:1") is None, "a second one is not listened to"
        assert whereabouts.find(tmp_path) == URL
        process.kill()
        process.wait()
    assert (tmp_path / "gateway.json").read_text().count(URL) == 1
    assert whereabouts.find(tmp_path) is None, "a note that nobody holds is a dead gateway's"


def test_who_looks_for_a_gateway_keeps_none_from_leaving_its_note(tmp_path: Path) -> None:
    """As a window does every 50 ms, exactly while it waits for one."""
    is_shared = threading.Event()
    (tmp_path / "gateway.json").write_text("{}")

    def look() -> None:
        with (tmp_path / "gateway.json").open() as note:
            fcntl.flock(note, fcntl.LOCK_SH)
            is_shared.set()
            time.sleep(0.1)

    thread = threading.Thread(target=look)
    thread.start()
    assert is_shared.wait(5)
    handle = whereabouts.leave(tmp_path, URL)
    thread.join(5)
    assert handle is not None
    assert whereabouts.find(tmp_path) == URL
    os.close(handle)


def test_a_gateway_whose_note_somebody_holds_says_so(tmp_path: Path) -> None:
    with (tmp_path / "gateway.json").open("w") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        with GatewayProcess(data_dir=tmp_path) as gateway:
            gateway.call("db_query", {"query": "SELECT 1"})
            assert "`agentgate mcp` will not find this gateway: another process holds the note" in gateway.stderr


def test_a_note_that_is_not_written_yet_or_no_note_is_nobody(tmp_path: Path) -> None:
    handle = whereabouts.leave(tmp_path, URL)
    assert handle is not None
    for content in (b"", b"{", b"[]", b'{"url": 7}', b'"x"'):
        os.ftruncate(handle, 0)
        os.pwrite(handle, content, 0)
        assert whereabouts.find(tmp_path) is None
    os.close(handle)


def test_a_note_is_its_owners_alone(tmp_path: Path) -> None:
    handle = whereabouts.leave(tmp_path, URL)
    assert handle is not None
    assert (tmp_path / "gateway.json").stat().st_mode & 0o077 == 0
    os.close(handle)


def test_two_who_want_to_start_one_take_turns(tmp_path: Path) -> None:
    home, waiting, order = tmp_path / "new", threading.Event(), []

    def second() -> None:
        waiting.set()
        with whereabouts.starting(home):
            order.append("second")

    with whereabouts.starting(home):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait(5)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_a_gateway_says_where_it_is() -> None:
    with GatewayProcess() as gateway:
        assert whereabouts.find(gateway.data_dir) == gateway.url
        gateway.kill9()
        until(lambda: whereabouts.find(gateway.data_dir) is None)
        gateway.start()
        assert whereabouts.find(gateway.data_dir) == gateway.url
