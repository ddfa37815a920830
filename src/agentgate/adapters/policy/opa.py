"""The policy engine of production: a real OPA server, asked over kept-alive connections.

The gateway never writes to OPA. A bundle is published here, OPA pulls it from the gateway's bundle endpoint, and it
is in force when OPA's own provenance names its revision. An OPA that runs policies of its own has the revision
`external:<digest of its policies>`, and takes none from us.

What OPA needs in its configuration: a service with the gateway's url and a key of role `opa`, a bundle named
`agentgate` from /bundles/agentgate.tar.gz (long polling, or a minimum delay of a second), and `status:
{prometheus: true}` so that GET /v1/status says why a bundle was refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import orjson

from agentgate.adapters.policy._bundle import PublishedBundle, SharedShelf, folder_of, render, revision_of
from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.adapters.policy._http import Answer, HttpClient, Nonsense, Unreachable, parse_url
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, PolicyOvertaken, ReasonCode
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical
from agentgate.ports.policy import Rule

_QUERY: Final = "strict-builtin-errors=true&provenance=true"
_EMPTY_QUESTION: Final = b'{"input":{}}'
_ADMIN_CAP_BYTES: Final = 32 * 1024 * 1024
_MAX_DETAIL_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to wait for OPA, in seconds."""

    query_s: float = 0.2
    admin_s: float = 2.0
    enforce_s: float = 5.0
    poll_s: float = 0.05
    external_fresh_s: float = 3.0


class OpaPolicyEngine:
    """A PolicyEngine. `published` is what the gateway's bundle endpoint serves, None before the first `enforce`.
    Workers of one service share it in the file `shelf`, because OPA may ask any of them.

    `on_publish` is called whenever `published` changed: the endpoint can answer a long poll then.
    """

    def __init__(
        self,
        url: str,
        *,
        waits: Waits | None = None,
        ca_file: Path | None = None,
        token: str | None = None,
        connections: int = 32,
        external: bool = False,
        compiler: OpaCompiler | None = None,
        shelf: Path | None = None,
        on_publish: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ValueError when `url` is not one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = HttpClient(parse_url(url, ca_file), headers=headers, connections=connections)
        self._ask: dict[Rule, bytes] = {
            rule: self._client.head("POST", f"/v1/data/agentgate/{rule}?{_QUERY}") for rule in _RULES
        }
        self._waits = waits or Waits()
        self._external = external
        self._compiler = compiler
        self._on_publish = on_publish
        self._digest: tuple[float, str] | None = None
        self._enforcing = asyncio.Lock()
        self._published: PublishedBundle | None = None
        self._shelf = SharedShelf(shelf) if shelf is not None else None

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        try:
            answer = await self._client.send(self._ask[rule], question, self._waits.query_s)
        except TimeoutError:
            return NoRuling(ReasonCode.POLICY_TIMEOUT, f"no answer within {self._waits.query_s:g} s")
        except Unreachable as error:
            return NoRuling(ReasonCode.POLICY_UNAVAILABLE, str(error)[:_MAX_DETAIL_CHARS])
        except Nonsense as error:
            return NoRuling(ReasonCode.POLICY_MALFORMED, str(error)[:_MAX_DETAIL_CHARS])
        found = read_answer(answer)
        if isinstance(found, Ruling) and not found.revision:
            return Ruling(found.value, await self._external_revision() or "")
        return found

    async def enforce(self, bundle: PolicyBundle, *, instead_of: str | None = None) -> None:
        async with self._enforcing:
            if self._external or await self._runs_its_own():
                raise PolicyExternal("OPA runs its own policies; change them where they come from")
            if self._compiler is not None:
                await self._compiler.compile(bundle)
            wanted = await asyncio.to_thread(render, bundle)
            try:
                before = self.published
            except OSError as error:
                raise PolicyNotEnforced(wanted.revision, None) from error
            await self._publish(wanted, instead_of)
            try:
                await self._until_enforced(wanted.revision)
            except PolicyInvalid:
                with contextlib.suppress(PolicyOvertaken):
                    await self._publish(before, wanted.revision)
                raise

    async def revision(self) -> str | None:
        found = await self.query("decision", _EMPTY_QUESTION)
        if isinstance(found, Ruling):
            return found.revision or None
        if found.reason in _SILENT:
            return None  # a call would be refused now, whatever more patient questions would be answered
        # An undefined or failing rule is still OPA's, so its provenance counts.
        return await self._provenance() or await self._external_revision()

    async def aclose(self) -> None:
        await self._client.aclose()

    @property
    def published(self) -> PublishedBundle | None:
        return self._published if self._shelf is None else self._shelf.get()

    @property
    def published_revision(self) -> str:
        return revision_of(self.published)

    async def _publish(self, bundle: PublishedBundle | None, instead_of: str | None) -> None:
        """Raises PolicyNotEnforced when it cannot be put where OPA finds it, and PolicyOvertaken as the shelf does."""
        if self._shelf is None:
            self._published = bundle
        else:
            try:
                async with asyncio.timeout(self._waits.enforce_s):
                    await self._shelve(self._shelf, bundle, instead_of)
            except OSError as error:  # out of time as well
                raise PolicyNotEnforced(revision_of(bundle), None) from error
        self._on_publish()

    async def _shelve(self, shelf: SharedShelf, bundle: PublishedBundle | None, instead_of: str | None) -> None:
        while True:
            try:
                return shelf.put(bundle, instead_of)
            except BlockingIOError:
                await asyncio.sleep(self._waits.poll_s)

    async def _until_enforced(self, wanted: str) -> None:
        """Raises PolicyInvalid when OPA says that it cannot load it, PolicyNotEnforced when the time is up."""
        enforced: str | None = None
        try:
            async with asyncio.timeout(self._waits.enforce_s):
                while (enforced := await self._provenance()) != wanted:
                    trouble = await self._bundle_trouble(folder_of(wanted))
                    if trouble is not None:
                        raise PolicyInvalid(trouble)
                    await asyncio.sleep(self._waits.poll_s)
        except TimeoutError:
            raise PolicyNotEnforced(wanted, enforced) from None

    async def _provenance(self) -> str | None:
        """The revision of our bundle in OPA, whatever the rule answers."""
        answer = await self._admin("GET", "/v1/data/agentgate/decision?provenance=true")
        return (_provenance_of(answer) or None) if isinstance(answer, dict) else None

    async def _bundle_trouble(self, folder: str) -> str | None:
        """OPA's own words on why it could not load the bundle whose modules lie in `folder`, or None.

        OPA's status does not say which revision an error is about, and keeps showing an old one. The file names do.
        That OPA cannot reach the gateway names no file, and is no fault of the policy.
        """
        answer = await self._admin("GET", "/v1/status")
        match answer:
            case {"result": {"bundles": {"agentgate": {"code": str(), "message": str(message), **rest}}}}:
                errors = rest.get("errors")
                lines = [_error_line(error) for error in errors] if isinstance(errors, list) else []
                text = f"{message}: {'; '.join(lines)}" if lines else message
                if folder in text:
                    return text.replace(f"/{folder}/", "").replace(f"{folder}/", "")
        return None

    async def _runs_its_own(self) -> bool:
        """OPA has policies and none of them are from a bundle of ours."""
        found = await self.query("decision", _EMPTY_QUESTION)
        if isinstance(found, NoRuling) and found.reason in _SILENT:
            return False  # nobody knows yet; the more patient questions would make a reload wait for nothing
        return await self._provenance() is None and await self._external_revision() is not None

    async def _external_revision(self) -> str | None:
        """`external:` and a digest of the policies that OPA holds; None when it has none or does not say.

        Read anew every few seconds. It covers the policies alone: what is in OPA's data cannot be told apart from
        what its rules compute.
        """
        now = monotonic()
        if self._digest is None or now - self._digest[0] > self._waits.external_fresh_s:
            answer = await self._admin("GET", "/v1/policies")
            digest = _digest_of(answer)
            self._digest = None if digest is None else (now, digest)
        return None if self._digest is None else f"external:{self._digest[1]}"

    async def _admin(self, method: str, target: str) -> Any:
        """The JSON that OPA answers with 200; None for everything else."""
        try:
            answer = await self._client.send(
                self._client.head(method, target), None, self._waits.admin_s, cap=_ADMIN_CAP_BYTES
            )
            return orjson.loads(answer.body) if answer.status == 200 else None
        except (TimeoutError, Unreachable, Nonsense, orjson.JSONDecodeError):
            return None


_RULES: Final[tuple[Rule, ...]] = ("decision", "tools")
_SILENT: Final = frozenset({ReasonCode.POLICY_TIMEOUT, ReasonCode.POLICY_UNAVAILABLE})


def read_answer(answer: Answer) -> Ruling | NoRuling:
    """A ruling only from 200, JSON and a `result`; everything else has its own reason."""
    if answer.status != 200:
        return NoRuling(ReasonCode.POLICY_ERROR, f"OPA answered {answer.status}: {_message_of(answer.body)}")
    if answer.content_type.partition(";")[0].strip().lower() != "application/json":
        return NoRuling(ReasonCode.POLICY_MALFORMED, "OPA's answer is not application/json")
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        return NoRuling(ReasonCode.POLICY_MALFORMED, f"OPA's answer is not JSON: {error}")
    if not isinstance(document, dict):
        return NoRuling(ReasonCode.POLICY_MALFORMED, "OPA's answer is not an object")
    if "warning" in document:
        # It says that OPA did not find an `input`: whatever it computed, it was not about this call.
        return NoRuling(ReasonCode.POLICY_ERROR, "OPA did not take the question")
    if "result" not in document:
        return NoRuling(ReasonCode.POLICY_UNDEFINED, "the rule is undefined for this question")
    return Ruling(document["result"], _provenance_of(document))


def _provenance_of(document: dict[str, Any]) -> str:
    """The revision of our bundle in an answer's provenance, or nothing."""
    match document.get("provenance"):
        case {"bundles": {"agentgate": {"revision": str(revision)}}}:
            return revision
    return ""


def _message_of(body: bytes) -> str:
    """OPA's `message`, if that is what it is; a stranger's page stays out of our log."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "no JSON"
    match document:
        case {"code": str(code), "message": str(message)}:
            return f"{code}: {message}"[:_MAX_DETAIL_CHARS]
    return "no message"


def _error_line(error: Any) -> str:
    match error:
        case {"message": str(message), "location": {"file": str(file), "row": int(row)}}:
            return f"{file}:{row}: {message}"
        case {"message": str(message)}:
            return message
    return "an error without a message"  # to write out what it is instead may fail: it can be too deep


def _digest_of(answer: Any) -> str | None:
    """A digest of the sources in GET /v1/policies; None when there are none, or something else."""
    policies = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(policies, list) or not policies:
        return None
    sources: dict[str, str] = {}
    for policy in policies:
        match policy:
            case {"id": str(name), "raw": str(text)}:
                sources[name] = text
            case _:
                return None  # no OPA says that, and what it says instead may be too deep to be written out
    return hashlib.sha256(canonical(sources)).hexdigest()[:16]
