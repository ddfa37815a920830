"""Notes of control acts that have no protocol: exports, keys, policy changes."""

from __future__ import annotations

import base64

from agentgate.core.call import Principal
from agentgate.core.dsse import PublicKey
from agentgate.core.event import Kind, make
from agentgate.core.events.keeping import exported, keyed
from agentgate.core.evidence.scope import Scope
from agentgate.core.note import NoteKey
from agentgate.pipeline.records.record import Recorder


class Books:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def exported(self, actor: Principal, scope: Scope, form: str) -> None:
        """Who took evidence of what. Raises LogUnavailable: no export without a record."""
        names = {"session": "of_session", "agent": "of_agent", "since": "since", "until": "until"}
        what = {names[name]: value for name, value in scope.told.items() if name in names}
        await self._recorder.note(
            lambda origin: exported(origin, actor=actor.id, tenant=scope.tenant, form=form, what=what)
        )

    async def keyed(self, use: str, key: PublicKey) -> None:
        """That a key signs from now on. Raises LogUnavailable."""
        public = base64.b64encode(key.spki).decode()
        await self._recorder.note(
            lambda origin: keyed(origin, use=use, algorithm=key.algorithm, key_id=key.key_id, public=public)
        )

    async def checkpoints_keyed(self, key: NoteKey) -> None:
        """That another key signs checkpoints from now on. Raises LogUnavailable."""
        await self._recorder.note(
            lambda origin: keyed(origin, use="checkpoints", algorithm="ed25519", key_id=key.hash.hex(), public=key.text)
        )

    async def policy(self, actor: str, revision: str, what: str) -> None:
        """That `revision` is enforced from now on. Raises LogUnavailable."""
        fields = {"policy_revision": revision, "what": what}
        await self._recorder.note(lambda origin: make(origin, Kind.POLICY, fields, principal=actor))
