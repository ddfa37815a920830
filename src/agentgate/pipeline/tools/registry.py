"""Every tool that can be called now: those that the configuration declares, and those that tool servers bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agentgate.core.call import Tool


class Registry(Mapping[str, Tool]):
    """A live mapping by name: whoever holds it sees every change. Only the desk for pins changes it."""

    def __init__(self, declared: Mapping[str, Tool]) -> None:
        self._declared = dict(declared)
        self._brought: dict[str, dict[str, Tool]] = {}
        self._all: dict[str, Tool] = dict(declared)

    def serve(self, server: str, tools: Mapping[str, Tool]) -> None:
        """Replace what `server` brings.

        Raises:
            ValueError: a name is another's already; nothing has changed.
        """
        others = self._declared | {
            name: tool for other, brought in self._brought.items() if other != server for name, tool in brought.items()
        }
        if taken := sorted(others.keys() & tools.keys()):
            raise ValueError(f"{taken[0]} is the name of another tool already")
        self._brought[server] = dict(tools)
        self._all = others | self._brought[server]

    def of_server(self, server: str) -> Mapping[str, Tool]:
        return self._brought.get(server, {})

    def __getitem__(self, name: str) -> Tool:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
