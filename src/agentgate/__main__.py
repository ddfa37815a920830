"""`python -m agentgate` is `agentgate`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def main() -> None:
    """The console script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as we live
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our marks still gets the words
    try:
        if sys.argv[1:2] == ["serve"]:
            from agentgate.starting import cli  # a gateway does not wait for what the other commands load
        else:
            from agentgate.cli import cli  # all commands, and with them an HTTP client, tables and the verifier
        cli()
    except KeyboardInterrupt:  # while it loads
        sys.exit(130)


if __name__ == "__main__":
    main()
