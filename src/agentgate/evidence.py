"""`evidence` of the configuration: the desk that makes packs, and their signers, forms, keys and time stamps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentgate import __version__
from agentgate import settings as configuration
from agentgate.adapters.evidence.bundle import Bundle
from agentgate.adapters.evidence.html import HtmlPack
from agentgate.adapters.evidence.json import JsonPack
from agentgate.adapters.evidence.pdf import PdfPack
from agentgate.adapters.signers.ecdsa import EcdsaSigner
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.adapters.signers.hmac import HmacSigner
from agentgate.core.dsse import EnvelopeInvalid, PublicKey
from agentgate.core.errors import UnsafeConfiguration
from agentgate.logs import LogStore, log_keys
from agentgate.pipeline.records.books import Books
from agentgate.pipeline.records.evidence import EvidenceDesk, Forms, Rules, Seal
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock, Worker
from agentgate.ports.evidence import TimestampAuthority
from agentgate.ports.keys import EnvelopeSigner
from agentgate.ports.notices import Meter
from agentgate.settings import Settings

_SIGNERS: Final[Mapping[str, type[EcdsaSigner | Ed25519Signer]]] = {"ecdsa": EcdsaSigner, "ed25519": Ed25519Signer}


def make_evidence(
    config: Settings,
    log: LogStore,
    recorder: Recorder,
    clock: Clock,
    meter: Meter,
    worker: Worker,
    timestamps: TimestampAuthority | None,
) -> EvidenceDesk:
    """Raises UnsafeConfiguration."""
    part, envelope, hmac = config.evidence, make_envelope_signer(config), make_hmac(config)
    keys, html, pdf = make_public_keys(config, PublicKey(envelope.spki)), HtmlPack(), PdfPack()
    return EvidenceDesk(
        reader=log,
        tree=log,
        books=Books(recorder),
        clock=clock,
        meter=meter,
        worker=worker,
        forms=Forms({"json": JsonPack(), "html": html, "pdf": pdf}, Bundle((html, pdf), keys, hmac)),
        seal=Seal(
            envelope,
            hmac_key=part.signing_key.encode() if part.signing_key is not None else None,
            hmac=hmac,
            timestamps=timestamps,
        ),
        generator=f"AgentGate v{__version__}",
        rules=Rules(max_events=part.max_events, needs_timestamp=part.timestamp_required),
    )


def make_envelope_signer(config: Settings) -> EnvelopeSigner:
    """The key that `evidence.signing` names; without one, what the first start makes. Raises UnsafeConfiguration."""
    part = config.evidence.signing
    signer = _SIGNERS.get(part.kind)
    if signer is None:
        raise configuration.unknown_kind("evidence.signing", part.kind, tuple(_SIGNERS))
    if part.key is None:
        return signer.from_file_or_new(envelope_key_path(config))
    if isinstance(part.key, configuration.FileRef):
        return signer.from_file(part.key.file)
    text = configuration.secret_of("evidence.signing.key", part.key, configuration.environment())
    return signer.from_text(text, part.key.env)


def envelope_key_path(config: Settings) -> Path:
    """Where the first start keeps the key that it makes."""
    return config.data_dir / "envelope-key.pem"


def make_public_keys(config: Settings, envelope: PublicKey) -> dict[str, bytes]:
    """The files of a zip's `keys/`. Raises UnsafeConfiguration."""
    log_key, *former = log_keys(config)
    files = {"keys/log.vkey": f"{log_key.text}\n".encode(), "keys/envelope.pub.pem": envelope.pem}
    files |= {f"keys/retired-{key.hash.hex()}.vkey": f"{key.text}\n".encode() for key in former if key != log_key}
    for path in config.evidence.former_keys:
        try:
            key = PublicKey.from_pem(path.read_bytes())
        except OSError as error:
            raise UnsafeConfiguration(f"evidence.former_keys: {path}: {error.strerror}") from None
        except EnvelopeInvalid as error:
            raise UnsafeConfiguration(f"evidence.former_keys: {path}: {error}") from None
        if key != envelope:
            files[f"keys/retired-{key.key_id}.pub.pem"] = key.pem
    return files


def make_hmac(config: Settings) -> HmacSigner | None:
    """The HMAC signer of packs, where a key is configured. Raises UnsafeConfiguration."""
    key = config.evidence.signing_key
    return HmacSigner(key.encode()) if key is not None else None


def make_timestamps(config: Settings) -> TimestampAuthority | None:
    """The time stamp authority, where one is configured. Raises UnsafeConfiguration."""
    part = config.evidence
    if part.timestamp_url is None:
        return None
    # its HTTP client and its parsers take a start as long as all of SQLAlchemy
    from cryptography.x509 import load_pem_x509_certificates  # for who has an authority

    from agentgate.adapters.timestamps.rfc3161 import Rfc3161Authority  # for who has an authority

    try:
        roots = load_pem_x509_certificates(part.timestamp_ca.read_bytes()) if part.timestamp_ca is not None else []
        return Rfc3161Authority(part.timestamp_url, roots=roots)
    except OSError as error:
        raise UnsafeConfiguration(f"evidence.timestamp_ca: {part.timestamp_ca}: {error.strerror}") from None
    except ValueError as error:
        raise UnsafeConfiguration(f"evidence: {error}") from None
