"""`python -m agentgate` is `agentgate`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our marks still gets the words
    if sys.argv[1:2] == ["serve"]:
        from agentgate.starting import cli  # a gateway does not wait for what the other commands load
    else:
        from agentgate.cli import cli  # all commands, and with them an HTTP client, tables and the verifier
    cli()


if __name__ == "__main__":
    main()
