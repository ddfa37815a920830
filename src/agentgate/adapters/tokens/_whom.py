"""Whom the claims of a verified token stand for.

An agent, unless its client is one with which people log in: what a person agreed to for a client is the client's to
use, and must not be what the person could do (an agent that approves with its user's groups approves itself).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentgate.core.call import AgentId, Principal, PrincipalKind, Role, SessionId, TenantId, is_id

Path = tuple[str, ...]
"""The names that lead to a claim, from the outside in."""

AGENT_CLAIMS: Final[tuple[Path, ...]] = (("azp",), ("client_id",), ("sub",))
_CLIENT: Final = ("azp", "client_id")
_WORDS: Final = frozenset({"scope", "scp"})
"""Claims whose text is words with spaces between them; any other text is one value."""
_USER: Final = re.compile(r"[\x21-\x7E]{1,256}")
_NOT_THERE: Final = object()


class Nobody(Exception):
    """The claims stand for nobody here. The text says why, in ASCII and without a word of the token."""


@dataclass(frozen=True, slots=True)
class Whom:
    """The mapping from one issuer's claims to principals. What it does not say, no token gets."""

    agent: tuple[Path, ...] = AGENT_CLAIMS
    """The first one that is there names the agent."""
    person: Path | None = None
    people_clients: frozenset[str] = frozenset()
    roles_claim: Path | None = None
    roles: Mapping[str, frozenset[Role]] = field(default_factory=dict)
    role_clients: frozenset[str] = frozenset()
    all_tenants: frozenset[str] = frozenset()
    tenant: str = "default"
    tenant_claim: Path | None = None
    """Where it is set, a token without it stands for nobody."""
    tier: str = ""
    tier_claim: Path | None = None
    on_behalf_of: Path | None = None
    session: Path = ("agentgate_session",)
    prefix: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError saying what does not belong together."""
        if self.person is not None and not self.people_clients:
            raise ValueError(
                "claims.person without people_clients: an agent's token has its user's claims too; "
                "name the clients with which people log in"
            )
        if (self.roles or self.all_tenants) and self.roles_claim is None:
            raise ValueError("roles and all_tenants are values of a claim: say which (claims.roles)")
        if self.role_clients & self.people_clients:
            raise ValueError("a client is one of people_clients or of role_clients, not both")
        if self.tenant_claim is not None and self.tenant != "default":
            raise ValueError("tenant and claims.tenant are both set: drop one of them")
        if self.prefix and not is_id(f"{self.prefix}x"):
            raise ValueError("prefix must start with a letter or digit and hold only letters, digits and ._:@-")

    def principal(self, claims: Mapping[str, Any], scopes: frozenset[str]) -> Principal:
        """Raises Nobody."""
        client = _client(claims)
        is_person = client is not None and client in self.people_clients and "act" not in claims
        if is_person:
            kind, name, user = PrincipalKind.PERSON, _at(claims, self.person or ("sub",)), None
        else:
            kind, name, user = PrincipalKind.AGENT, *self._agent_and_user(claims)
        values = _values(claims, self.roles_claim)
        counts = is_person or (client is not None and client in self.role_clients and self._is_own(claims, client))
        roles = {Role.AGENT} if not is_person else set[Role]()
        if counts:
            roles.update(role for value in values for role in self.roles.get(value, ()))
        return Principal(
            kind,
            AgentId(self.prefix + _name(name, f"names no {kind} that could be one here", self.prefix)),
            TenantId(self._tenant(claims)),
            frozenset(roles),
            "oauth",
            tenants_all=counts and not self.all_tenants.isdisjoint(values),
            scopes=scopes,
            session=self._session(claims),
            tier=self._tier(claims),
            on_behalf_of=user,
        )

    def _agent_and_user(self, claims: Mapping[str, Any]) -> tuple[object, str | None]:
        """The agent's name, and whom it acts for."""
        if "act" in claims:
            actor = claims["act"]
            if not isinstance(actor, dict):
                raise Nobody("names no actor that could be one here")
            return actor.get("sub"), self.prefix + self._user(claims)
        agent = _first(claims, self.agent)
        if self.people_clients and self._has_user(claims, agent):
            return agent, self.prefix + self._user(claims)
        user = _at(claims, self.on_behalf_of) if self.on_behalf_of is not None else _NOT_THERE
        return agent, None if user is _NOT_THERE or user == agent else self.prefix + _user(user)

    def _has_user(self, claims: Mapping[str, Any], agent: object) -> bool:
        """Whether a token without an actor comes from somebody's login: its `sub` is not its client (RFC 9068 §2.2),
        or it has none, and names a person."""
        if "sub" not in claims:
            return self.person is not None and _at(claims, self.person) is not _NOT_THERE
        own = [claims[name] for name in _CLIENT if name in claims] or [agent]
        return any(name != claims["sub"] for name in own)

    def _user(self, claims: Mapping[str, Any]) -> str:
        """Whom an agent acts for, by what people are called here: who would approve its calls is known again."""
        if self.person is not None and _at(claims, self.person) is _NOT_THERE:
            raise Nobody("names its user by no claim by which people are known here")
        named = (self.on_behalf_of, self.person, ("sub",))
        return _user(_first(claims, (path for path in named if path is not None)))

    @staticmethod
    def _is_own(claims: Mapping[str, Any], client: str) -> bool:
        """Whether the token's client is who acts: another actor has not the roles of the client that it came by."""
        return "act" not in claims or claims["act"].get("sub") == client

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        if self.tenant_claim is None:
            return self.tenant
        return _name(_at(claims, self.tenant_claim), "names no tenant that could be one here")

    def _tier(self, claims: Mapping[str, Any]) -> str:
        found = _at(claims, self.tier_claim) if self.tier_claim is not None else _NOT_THERE
        return self.tier if found is _NOT_THERE else _name(found, "names no tier that could be one here")

    def _session(self, claims: Mapping[str, Any]) -> SessionId | None:
        found = _at(claims, self.session)
        return None if found is _NOT_THERE else SessionId(_name(found, "names no session that could be one here"))


def _client(claims: Mapping[str, Any]) -> str | None:
    """The client of the token. One that is called by two names is neither."""
    named = {claims[name] if isinstance(claims[name], str) else None for name in _CLIENT if name in claims}
    return named.pop() if len(named) == 1 else None


def _at(claims: Mapping[str, Any], path: Path) -> object:
    """What stands there, or `_NOT_THERE`. Raises Nobody where something else is on the way."""
    found: object = claims
    for name in path:
        if not isinstance(found, dict):
            raise Nobody("has a claim of another form than is configured here")
        if name not in found:
            return _NOT_THERE
        found = found[name]
    return found


def _first(claims: Mapping[str, Any], paths: Iterable[Path]) -> object:
    """What stands at the first of them that is there; None at none."""
    return next((found for path in paths if (found := _at(claims, path)) is not _NOT_THERE), None)


def _values(claims: Mapping[str, Any], path: Path | None) -> frozenset[str]:
    found = _at(claims, path) if path is not None else _NOT_THERE
    if path is None or found is _NOT_THERE:
        return frozenset()
    if isinstance(found, str):
        return frozenset(found.split()) if path[-1] in _WORDS else frozenset({found})
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise Nobody("has roles that are neither text nor a list of texts")
    return frozenset(found)


def _user(value: object) -> str:
    if not isinstance(value, str) or _USER.fullmatch(value) is None:
        raise Nobody("names no user that could be one here")
    return value


def _name(value: object, otherwise: str, prefix: str = "") -> str:
    if not isinstance(value, str) or not is_id(value) or not is_id(prefix + value):
        raise Nobody(otherwise)
    return value
