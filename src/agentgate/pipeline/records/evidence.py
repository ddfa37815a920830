"""Making a pack: record that it is taken, read what it is of, build, sign, write.

Everything is at hand before the first byte leaves: what fails, fails as an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal

from agentgate.core import archive
from agentgate.core.call import Principal
from agentgate.core.dsse import Envelope, PublicKey, Signature, statement
from agentgate.core.errors import ReasonCode, Refused, TimestampUnavailable
from agentgate.core.event import Kind, Record, rfc3339
from agentgate.core.evidence.pack import About, Pack, Seals, build, seal
from agentgate.core.evidence.scope import Scope
from agentgate.core.query import Query
from agentgate.core.tiles import consistency_body, tlog_proof
from agentgate.pipeline.records.books import Books
from agentgate.pipeline.records.material import Gatherer, Material
from agentgate.pipeline.records.tree import Proofs
from agentgate.ports.ambient import Clock, Worker
from agentgate.ports.evidence import Bundler, Enclosures, PackWriter, TimestampAuthority
from agentgate.ports.keys import EnvelopeSigner, Signer
from agentgate.ports.log import LogReader, Tree
from agentgate.ports.notices import Meter

Form = Literal["json", "html", "pdf", "zip"]

_KEPT_AT_ONCE: Final = 3
"""Packs that are made or on their way: each is in memory until its last byte is gone."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How packs are to be made, as configured."""

    max_events: int = 100_000
    needs_timestamp: bool = False
    """Whether a zip is refused that the time stamp authority does not stamp."""


@dataclass(frozen=True, slots=True)
class Forms:
    """What a pack is written as: each view by its format, and the zip."""

    views: Mapping[str, PackWriter]
    bundle: Bundler


@dataclass(frozen=True, slots=True)
class Seal:
    """What packs are signed with. `hmac_key` and `hmac` are one key: the body's, and that of the files."""

    envelope: EnvelopeSigner
    hmac_key: bytes | None = None
    hmac: Signer | None = None
    timestamps: TimestampAuthority | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A pack as it leaves."""

    media_type: str
    extension: str
    pack_id: str
    events: int
    size: int
    chunks: Callable[[], Iterator[bytes]]
    hmac: str | None = None
    """HMAC-SHA256 over all bytes, in hexadecimals; of a view alone, because in a zip each has its own."""
    headers: Mapping[str, str] | None = None


class EvidenceDesk:
    """Packs for auditors, one at a time: each is made in memory. Without an HMAC key a pack has no HMAC and says so."""

    def __init__(
        self,
        *,
        reader: LogReader,
        tree: Tree,
        books: Books,
        clock: Clock,
        meter: Meter,
        worker: Worker,
        forms: Forms,
        seal: Seal,
        generator: str,
        rules: Rules,
    ) -> None:
        self._reader = reader
        self._gatherer = Gatherer(reader, tree, worker, rules.max_events)
        self._proofs = Proofs(tree, worker)
        self._books = books
        self._clock = clock
        self._meter = meter
        self._worker = worker
        self._forms = forms
        self._seal = seal
        self._key = PublicKey(seal.envelope.spki)
        self._generator = generator
        self._rules = rules
        self._is_announced = False
        self._one_at_a_time = asyncio.Lock()
        self._places = asyncio.Semaphore(_KEPT_AT_ONCE)

    async def sessions(self, viewer: Principal, *, after: str, limit: int) -> list[str]:
        """The first ids of sessions behind `after` that the viewer may see, sorted. Raises LogUnavailable."""
        return await self._reader.sessions(None if viewer.tenants_all else viewer.tenant, after=after, limit=limit)

    async def export(
        self, auditor: Principal, scope: Scope, form: Form, *, earlier_size: int | None = None
    ) -> Export | Refused:
        """A pack of `scope`. A zip also proves that the log continues the one of `earlier_size` events.

        Raises:
            LogUnavailable: nothing is given out that is not on record, nor without the log's checkpoint.
        """
        export: Export | Refused | None = None
        await self._places.acquire()
        try:
            async with self._one_at_a_time:
                export = await self._export(auditor, scope, form, earlier_size)
        finally:
            if isinstance(export, Export):
                self._meter.count("exports", form)
            else:
                self._meter.count("exports_failed")
                self._places.release()
        return export

    def sent(self) -> None:
        """An `Export` that was given out is not kept any more: another may be made."""
        self._places.release()

    async def _export(self, auditor: Principal, scope: Scope, form: Form, earlier_size: int | None) -> Export | Refused:
        await self._books.exported(auditor, scope, form)
        if form == "zip":
            await self._announce()
        found = await self._gatherer.read(scope)
        if isinstance(found, Refused):
            return found
        if earlier_size is not None and earlier_size > found.checkpoint.size:
            text = f"the log has {found.checkpoint.size} events: it continues none of {earlier_size}"
            return Refused(ReasonCode.INVALID_REQUEST, text)
        now = self._clock.now()
        if form == "zip":
            return await self._bundle(scope, found, now, earlier_size)
        return await self._worker.run(partial(self._write, scope, found, now, self._forms.views[form]))

    async def _announce(self) -> None:
        """The log names a key before it signs anything: so nobody can say later that it was somebody else's."""
        if self._is_announced:
            return
        wanted = {"use": "envelopes", "key_id": self._key.key_id}
        async for record in self._reader.search(Query(kinds={Kind.KEYED}), newest=True):
            if all(record.fields.get(name) == value for name, value in wanted.items()):
                break
        else:
            await self._books.keyed("envelopes", self._key)
        self._is_announced = True

    # --- writing, in the worker ---

    def _pack(self, scope: Scope, found: Material, now: datetime, *, is_bundle: bool) -> Pack:
        about = About(scope, rfc3339(now), self._generator)
        key_id = self._key.key_id if is_bundle else None
        seals = Seals(self._seal.hmac_key, key_id, proofs=is_bundle)
        return seal(build(about, found.records, found.note), seals, signed_at=rfc3339(now))

    def _write(self, scope: Scope, found: Material, now: datetime, writer: PackWriter) -> Export:
        pack = self._pack(scope, found, now, is_bundle=False)
        content = writer.write(pack)
        return Export(
            media_type=writer.media_type,
            extension=writer.extension,
            pack_id=_sha256(pack.raw),
            events=len(found.records),
            size=len(content),
            chunks=lambda: iter((content,)),
            hmac=self._seal.hmac.sign(content).hex() if self._seal.hmac is not None else None,
            headers=getattr(writer, "headers", None),
        )

    # --- the bundle ---

    async def _bundle(self, scope: Scope, found: Material, now: datetime, earlier_size: int | None) -> Export | Refused:
        pack = await self._worker.run(partial(self._pack, scope, found, now, is_bundle=True))
        size = found.checkpoint.size
        proofs = await self._proofs.inclusions((record.index for record in found.records), size)
        consistency: dict[int, bytes] = {}
        if earlier_size is not None:
            hashes = await self._proofs.consistency(earlier_size, size)
            consistency[earlier_size] = consistency_body(earlier_size, hashes, found.note)

        def files_of_pack() -> dict[str, bytes]:
            enclosures = Enclosures(
                checkpoint=found.note,
                leaves={record.index: record.leaf for record in found.records},
                bodies={record.index: record.raw_body for record in found.records if record.raw_body is not None},
                proofs={index: tlog_proof(index, hashes, found.note) for index, hashes in proofs.items()},
                consistency=consistency,
            )
            return self._forms.bundle.files(pack, enclosures)

        files = await self._worker.run(files_of_pack)
        try:
            signed = await self._envelope(files, _predicate(pack, found.records))
        except TimestampUnavailable as error:
            return Refused(ReasonCode.TIMESTAMP_UNAVAILABLE, str(error))
        whole = files | signed
        return Export(
            media_type="application/zip",
            extension="zip",
            pack_id=_sha256(pack.raw),
            events=len(found.records),
            size=await self._worker.run(lambda: archive.size_of(whole)),
            chunks=partial(archive.chunks, whole),
        )

    async def _envelope(self, files: Mapping[str, bytes], predicate: dict[str, Any]) -> dict[str, bytes]:
        """The envelope's files. A time stamp is of the signature, and the signed part says whether there is one.

        Raises:
            TimestampUnavailable: there is none, and there must be.
        """
        digests = await self._worker.run(lambda: {name: _sha256(files[name]) for name in archive.ordered(files)})
        if self._seal.timestamps is not None:
            envelope = await self._worker.run(partial(self._signed, digests, predicate | {"timestamp": True}))
            try:
                stamp = await self._seal.timestamps.stamp(envelope.signatures[0].raw)
            except TimestampUnavailable:
                self._meter.count("timestamps_missing")
                if self._rules.needs_timestamp:
                    raise
            else:
                return _files_of(envelope) | {"pack.dsse.tsr": stamp}
        return _files_of(await self._worker.run(partial(self._signed, digests, predicate | {"timestamp": False})))

    def _signed(self, digests: Mapping[str, str], predicate: Mapping[str, Any]) -> Envelope:
        unsigned = Envelope(statement(digests, predicate), ())
        signature = Signature(self._key.key_id, self._seal.envelope.sign(unsigned.signed))
        return Envelope(unsigned.payload, (signature,))


def _predicate(pack: Pack, records: Sequence[Record]) -> dict[str, Any]:
    """What the envelope says of the pack beside its files."""
    metadata, checkpoint = pack.body["metadata"], pack.body["integrity"]["checkpoint"]
    return {
        "pack_id": _sha256(pack.raw),
        "scope": metadata["scope"],
        "event_count": len(records),
        "first_index": records[0].index if records else None,
        "last_index": records[-1].index if records else None,
        "checkpoint": {name: checkpoint[name] for name in ("origin", "size", "root")},
        "generated_at": metadata["generated_at"],
        "generator": metadata["generator"],
    }


def _files_of(envelope: Envelope) -> dict[str, bytes]:
    return {"pack.dsse.json": envelope.json, "pack.sigstore.json": envelope.bundle}


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
