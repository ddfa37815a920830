from __future__ import annotations

from agentgate.adapters.notify.silent import SilentNotifier
from agentgate.ports.notices import Notifier
from tests.contracts.notifier import NotifierContract


class TestSilent(NotifierContract):
    def make(self) -> Notifier:
        return SilentNotifier()
