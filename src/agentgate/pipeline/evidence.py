"""Making a pack: read the session's records, build the body, sign it, and record that it was taken."""

from __future__ import annotations

from agentgate.core.call import Principal, TenantId
from agentgate.core.event import rfc3339
from agentgate.core.evidence import About, Scope, Seals, build, seal
from agentgate.pipeline.control import Books
from agentgate.ports import Clock, LogReader, Meter, SessionRow


class EvidenceDesk:
    """Packs for auditors. Without an HMAC key a pack is unsigned and says so."""

    def __init__(
        self,
        *,
        reader: LogReader,
        books: Books,
        clock: Clock,
        meter: Meter,
        generator: str,
        hmac_key: bytes | None,
    ) -> None:
        self._reader = reader
        self._books = books
        self._clock = clock
        self._meter = meter
        self._generator = generator
        self._hmac_key = hmac_key

    async def pack(self, auditor: Principal, tenant: str, session: str) -> bytes:
        """The JSON pack, in canonical bytes. Raises LogUnavailable."""
        await self._books.exported(auditor, TenantId(tenant), session, "json")
        records = [record async for record in self._reader.records(tenant=tenant, session=session)]
        now = rfc3339(self._clock.now())
        body = build(About(Scope(tenant, session), now, self._generator), records)
        self._meter.count("exports", "json")
        return seal(body, Seals(self._hmac_key), signed_at=now).json

    async def sessions(self, viewer: Principal) -> list[SessionRow]:
        """Raises LogUnavailable."""
        return await self._reader.sessions(None if viewer.tenants_all else viewer.tenant)
