"""`agentgate …` as a process of its own, many times: one process loads the command line once and forks for each.

    with CommandLine() as command_line:
        done = command_line("kills", "--url", url, env={"AGENTGATE_KEY": key})
        assert (done.status, done.stderr) == (1, "agentgate: …\n")

Each command has streams, environment, directory and signals of its own. None of them may read or write what file modes
forbid, also where the tests run as root.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.gateway import clean_environment

TIMEOUT_S: Final = 20.0
_FORBIDDEN: Final = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
"""As root, files that are not ours would be as good as ours."""


@dataclass(frozen=True)
class Done:
    """How a command ended. `status` is negative when a signal ended it."""

    status: int
    stdout: str
    stderr: str


class CommandLine:
    """Start it with `with`."""

    def __enter__(self) -> CommandLine:
        as_root = _FORBIDDEN if os.geteuid() == 0 and shutil.which("setpriv") else ()
        self.minds_modes = os.geteuid() != 0 or bool(as_root)
        """Whether a file that may not be read cannot be read."""
        self._process = subprocess.Popen(
            [*as_root, sys.executable, "-m", __name__],
            env=clean_environment({"COLUMNS": "200"}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=TIMEOUT_S)

    def __call__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = "",
        stdout: str = "file",
        interrupted_at: str | None = None,
        largest_file: int | None = None,
    ) -> Done:
        """Run one command to its end.

        `stdin` is its text, or None for a closed one; `stdout` a "file", a "closed" pipe, or a path. With
        `interrupted_at` stdin and stderr are a terminal, and Ctrl-C is pressed once that is said there. No file may
        become longer than `largest_file`, as on a full disk.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "arguments": arguments, "env": dict(env or {}), "cwd": str(cwd or tempfile.gettempdir()), "stdin": stdin,
            "stdout": stdout, "interrupted_at": interrupted_at, "largest_file": largest_file,
        }  # fmt: skip
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the command line's own process ended"
        return Done(**json.loads(answer))


# --- in the process that forks -----------------------------------------------------------------------------


def _serve() -> None:
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    screen, terminal = pty.openpty()
    (source, words), (out_end, out), (err_end, err) = os.pipe(), os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(words)
        _become(order, source, _stdout(order["stdout"], out), err, terminal)
    for mine in (terminal, source, out, err):
        os.close(mine)
    os.write(words, (order["stdin"] or "").encode(errors="surrogateescape"))
    os.close(words)
    said = _watched(child, (out_end, err_end, screen), order["interrupted_at"])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    stdout, *stderr = (part.decode(errors="replace").replace("\r\n", "\n") for part in said)
    return {"status": status, "stdout": stdout, "stderr": "".join(stderr)}


def _stdout(wanted: str, file: int) -> int:
    if wanted == "file":
        return file
    if wanted != "closed":
        return os.open(wanted, os.O_WRONLY)
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _become(order: Mapping[str, Any], source: int, out: int, err: int, terminal: int) -> None:
    """Be the command; does not return."""
    from agentgate.__main__ import main  # what a forked process does not load again

    at_terminal = order["interrupted_at"] is not None
    os.dup2(terminal if at_terminal else source, 0)
    os.dup2(out, 1)
    os.dup2(terminal if at_terminal else err, 2)
    os.closerange(3, 256)
    if order["stdin"] is None:
        os.close(0)
    is_open = order["stdin"] is not None
    sys.stdin = os.fdopen(0) if is_open else None  # type: ignore[assignment]  # as Python itself has it
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", encoding="utf-8", errors="replace") for fd in (1, 2))
    sys.argv = ["agentgate", *order["arguments"]]
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order["largest_file"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - what Python itself would print
        sys.excepthook(*sys.exc_info())
        status = 1
    try:
        sys.stdout.flush()
    except OSError as error:
        print(f"Exception ignored: {error!r}", file=sys.stderr)
        status = 120
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1 if status else 0)


def _watched(child: int, ends: Sequence[int], interrupted_at: str | None) -> list[bytes]:
    """What it says at each of these ends, until it ends. One that does not end is killed."""
    said, deadline = [b""] * len(ends), time.monotonic() + TIMEOUT_S
    for end in ends:
        os.set_blocking(end, False)
    is_over = False
    while True:
        for number, end in enumerate(ends):
            with contextlib.suppress(OSError):  # nothing yet, or nobody writes there any more
                while part := os.read(end, 65_536):
                    said[number] += part
        if is_over:
            break
        if interrupted_at is not None and interrupted_at.encode() in said[-1]:
            interrupted_at = None
            os.kill(child, signal.SIGINT)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        is_over = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if not is_over:
            time.sleep(0.005)
    for end in ends:
        os.close(end)
    return said


if __name__ == "__main__":
    import agentgate.cli
    import agentgate.offline
    import agentgate.rulings
    import agentgate.serving  # noqa: F401 - what commands load late

    _serve()
