"""Whom claims stand for: the rules of the mapping, and that nobody gets what they do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.tokens._whom import Nobody, Whom
from agentgate.core.call import Principal, PrincipalKind, Role, is_id

GROUPS = {"sre": frozenset({Role.OPERATOR}), "leads": frozenset({Role.APPROVER, Role.AUDITOR})}
RULES = Whom(
    people_clients=frozenset({"console"}),
    person=("email",),
    roles_claim=("groups",),
    roles=GROUPS,
    role_clients=frozenset({"ci-bot"}),
    all_tenants=frozenset({"everywhere"}),
)
NAMES = st.sampled_from(["console", "ci-bot", "bot", "admin", "", "a/b", "ann@example.org"])
GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | NAMES | st.sampled_from([*GROUPS, "everywhere"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sub", "act", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
CLAIMS = st.dictionaries(
    st.sampled_from(["azp", "client_id", "sub", "email", "groups", "act", "agentgate_session"]), GARBAGE, max_size=7
)


def who(rules: Whom, **claims: Any) -> Principal:
    return rules.principal(claims, frozenset())


def refused(rules: Whom, **claims: Any) -> str:
    with pytest.raises(Nobody) as caught:
        rules.principal(claims, frozenset())
    return str(caught.value)


# --- agents and people ------------------------------------------------------------------------------------------------


def test_without_settings_a_token_is_an_agents_with_that_role_and_nothing_else() -> None:
    found = who(Whom(), client_id="bot", sub="ann", groups=["sre"], roles=["admin"], scope="admin", tenant="acme")
    assert (found.id, found.roles, found.tenant, found.tenants_all) == ("agent:bot", {Role.AGENT}, "default", False)
    assert (found.tier, found.on_behalf_of, found.session) == ("", None, None)


def test_a_token_of_a_login_client_is_its_persons_with_the_roles_that_are_mapped() -> None:
    found = who(RULES, client_id="console", sub="17", email="ann@example.org", groups=["sre", "leads", "lunch"])
    assert (found.id, found.kind) == ("person:ann@example.org", PrincipalKind.PERSON)
    assert found.roles == {Role.OPERATOR, Role.APPROVER, Role.AUDITOR}
    assert not found.tenants_all
    assert found.on_behalf_of is None
    assert who(replace(RULES, person=None), azp="console", sub="17").id == "person:17"


def test_a_person_without_a_mapped_role_may_nothing_not_even_call() -> None:
    for groups in ({}, {"groups": []}, {"groups": ["lunch"]}):
        assert who(RULES, client_id="console", email="ann", **groups).roles == frozenset()


@pytest.mark.parametrize("client", ["bot", "console2", "Console"])
def test_a_users_groups_in_an_agents_token_are_not_the_agents(client: str) -> None:
    """The confused deputy: an agent that was given its user's token by a login must not approve with it."""
    found = who(RULES, client_id=client, sub="ann", email="ann@example.org", groups=["sre", "leads", "everywhere"])
    assert (found.id, found.roles, found.tenants_all) == (f"agent:{client}", {Role.AGENT}, False)


def test_an_agent_that_is_trusted_with_roles_has_them_beside_its_own() -> None:
    found = who(RULES, client_id="ci-bot", groups=["sre"])
    assert (found.id, found.roles) == ("agent:ci-bot", {Role.AGENT, Role.OPERATOR})


def test_an_actor_has_not_the_roles_of_the_client_that_it_came_by() -> None:
    """The token of a trusted pipeline's client in which somebody else acts: the other was never trusted with roles."""
    claims = {"client_id": "ci-bot", "sub": "17", "email": "ann"}
    found = who(RULES, **claims, act={"sub": "helper"}, groups=["sre", "everywhere"])
    assert (found.id, found.roles, found.tenants_all) == ("agent:helper", {Role.AGENT}, False)
    assert who(RULES, **claims, act={"sub": "ci-bot"}, groups=["sre"]).has(Role.OPERATOR)


def test_a_token_with_an_actor_is_never_a_persons() -> None:
    found = who(RULES, client_id="console", sub="ann", email="ann", act={"sub": "bot"}, groups=["sre"])
    assert (found.id, found.roles, found.on_behalf_of) == ("agent:bot", {Role.AGENT}, "ann")


@pytest.mark.parametrize(
    "clients", [("console", "bot"), ("bot", "console"), ("console", None), ("console", ["console"])]
)
def test_a_token_whose_client_has_two_names_is_no_persons(clients: tuple[str, Any]) -> None:
    found = who(RULES, azp=clients[0], client_id=clients[1], email="ann", groups=["sre"])
    assert (found.id, found.roles) == (f"agent:{clients[0]}", {Role.AGENT})


@pytest.mark.parametrize("email", [..., None, "", "a b", ["ann"], {"sub": "ann"}, 7, "ann\n", "é"])
def test_a_person_without_a_name_is_nobody(email: Any) -> None:
    claims = {"client_id": "console", "sub": "ann"} | ({} if email is ... else {"email": email})
    assert "person" in refused(RULES, **claims)


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "claims", "roles"),
    [
        (("groups",), {"groups": "sre"}, {Role.OPERATOR}),
        (("groups",), {"groups": "sre leads"}, set()),
        (("scope",), {"scope": "sre leads"}, {Role.OPERATOR, Role.APPROVER, Role.AUDITOR}),
        (("realm_access", "roles"), {"realm_access": {"roles": ["sre"]}}, {Role.OPERATOR}),
        (("realm_access", "roles"), {"realm_access": {}}, set()),
        (("realm_access", "roles"), {"realm_access.roles": ["sre"]}, set()),
        (("https://example.org/roles",), {"https://example.org/roles": ["sre"]}, {Role.OPERATOR}),
        (("groups",), {"groups": ["SRE", " sre", "sre ", "operator", "admin"]}, set()),
    ],
)
def test_roles_are_the_mapped_values_of_the_claim(path: tuple[str, ...], claims: Any, roles: set[Role]) -> None:
    assert who(replace(RULES, roles_claim=path), client_id="console", email="ann", **claims).roles == roles


@pytest.mark.parametrize(
    "groups", [None, 7, True, {"sre": True}, {"roles": ["sre"]}, [["sre"]], ["sre", None], ["sre", {"a": 1}], [1]]
)
def test_roles_of_another_form_are_refused_rather_than_read_somehow(groups: Any) -> None:
    assert "roles" in refused(RULES, client_id="console", email="ann", groups=groups)
    assert "roles" in refused(RULES, client_id="bot", groups=groups), "the token is refused, whoever it is of"


def test_something_else_on_the_way_to_a_claim_is_refused() -> None:
    rules = replace(RULES, roles_claim=("realm_access", "roles"))
    for realm in (None, "roles", ["roles"], 7):
        refused(rules, client_id="console", email="ann", realm_access=realm)


def test_admin_is_of_one_tenant_unless_a_value_says_all() -> None:
    rules = replace(RULES, roles=dict(GROUPS, root=frozenset({Role.ADMIN})), tenant="acme")
    one = who(rules, client_id="console", email="ann", groups=["root"])
    assert (one.roles, one.tenant, one.tenants_all) == ({Role.ADMIN}, "acme", False)
    every = who(rules, client_id="console", email="ann", groups=["root", "everywhere"])
    assert every.tenants_all
    assert not who(rules, client_id="bot", groups=["root", "everywhere"]).tenants_all


@given(CLAIMS)
def test_whatever_a_token_says_nobody_gets_more_than_the_mapping_gives(claims: Mapping[str, Any]) -> None:
    try:
        found = RULES.principal(claims, frozenset())
    except Nobody:
        return
    assert is_id(found.name)
    assert Role.ADMIN not in found.roles
    assert Role.OPA not in found.roles
    assert found.tenant == "default"
    values = claims.get("groups", [])
    given_roles = {
        role for value in ([values] if isinstance(values, str) else values) for role in GROUPS.get(value, ())
    }
    if found.kind is PrincipalKind.PERSON:
        assert "console" in (claims.get("azp"), claims.get("client_id"))
        assert "act" not in claims
        assert found.roles == given_roles
    elif "ci-bot" in (claims.get("azp"), claims.get("client_id")):
        assert found.roles <= given_roles | {Role.AGENT}
    else:
        assert found.roles == {Role.AGENT}
        assert not found.tenants_all
    if found.tenants_all:
        assert "everywhere" in values


# --- tenant, tier, user, prefix ---------------------------------------------------------------------------------------


def test_the_tenant_is_fixed_or_the_claims_and_never_something_in_between() -> None:
    assert who(replace(RULES, tenant="acme"), client_id="bot", tenant="evil", org="evil").tenant == "acme"
    rules = replace(RULES, tenant_claim=("org",))
    assert who(rules, client_id="bot", org="acme").tenant == "acme"
    for org in ({}, {"org": None}, {"org": ""}, {"org": "../x"}, {"org": ["acme"]}, {"org": {"id": "acme"}}):
        assert "tenant" in refused(rules, client_id="bot", **org)


def test_the_tier_is_the_claims_where_it_is_and_else_the_configured_one() -> None:
    rules = replace(RULES, tier="standard", tier_claim=("plan",))
    assert who(rules, client_id="bot", plan="gold").tier == "gold"
    assert who(rules, client_id="bot").tier == "standard"
    assert who(replace(RULES, tier="standard"), client_id="bot", tier="gold").tier == "standard"
    for plan in (None, "", ["gold"], "a b", -1):
        assert "tier" in refused(rules, client_id="bot", plan=plan)


def test_the_actor_is_the_agent_and_the_subject_its_user() -> None:
    """RFC 8693 §4.1: of nested actors the outermost acts; the inner ones are history."""
    found = who(Whom(), client_id="api", sub="auth0|17", act={"sub": "bot", "act": {"sub": "earlier"}})
    assert (found.id, found.on_behalf_of) == ("agent:bot", "auth0|17")
    assert found.for_policy["on_behalf_of"] == "auth0|17"


@pytest.mark.parametrize("act", [None, "bot", ["bot"], {}, {"sub": None}, {"sub": ["bot"]}, {"act": {"sub": "bot"}}])
def test_an_actor_that_names_nobody_is_refused(act: Any) -> None:
    refused(Whom(), client_id="bot", sub="ann", act=act)


@pytest.mark.parametrize("sub", [..., None, "", "a b", ["ann"], "a" * 257, "ann\n", "é"])
def test_an_actor_for_nobody_is_refused(sub: Any) -> None:
    refused(Whom(), client_id="bot", act={"sub": "bot"}, **({} if sub is ... else {"sub": sub}))


def test_a_configured_claim_names_the_user_unless_that_is_the_agent_itself() -> None:
    rules = Whom(on_behalf_of=("sub",))
    assert who(rules, client_id="bot", sub="ann").on_behalf_of == "ann"
    assert who(rules, client_id="bot", sub="bot").on_behalf_of is None
    assert who(rules, client_id="bot").on_behalf_of is None
    assert "user" in refused(rules, client_id="bot", sub=["ann"])


def test_a_prefix_keeps_the_names_of_issuers_apart() -> None:
    rules = replace(RULES, prefix="partner.")
    assert who(rules, client_id="bot").id == "agent:partner.bot"
    assert who(rules, client_id="console", email="ann").id == "person:partner.ann"
    assert who(rules, client_id="api", sub="17", email="ann", act={"sub": "bot"}).id == "agent:partner.bot"
    for name in ("", ".x", "-x", "a" * 250):
        refused(rules, client_id=name)


@pytest.mark.parametrize("prefix", ["", "partner."])
@pytest.mark.parametrize("person", [None, ("email",)])
def test_whom_an_agent_acts_for_is_called_as_the_person_who_could_approve(prefix: str, person: Any) -> None:
    """Else nobody notices that they are the same: ann approves what her own agent asks for."""
    rules = replace(RULES, prefix=prefix, person=person, on_behalf_of=person or ("sub",))
    ann = {"sub": "u-17", "email": "ann@example.org"}
    herself = who(rules, client_id="console", **ann)
    for hers in (who(rules, client_id="bot", act={"sub": "bot"}, **ann), who(rules, client_id="bot", **ann)):
        assert f"person:{hers.on_behalf_of}" == herself.id
    nobody_said = replace(rules, on_behalf_of=None)
    for more in (
        {"client_id": "bot", "act": {"sub": "bot"}},
        {"client_id": "bot"},
        {"azp": "bot"},
        {"azp": "console2"},
    ):
        assert f"person:{who(nobody_said, **more, **ann).on_behalf_of}" == herself.id


USERLESS: list[dict[str, Any]] = [
    {"client_id": "bot", "sub": "bot"},
    {"azp": "bot", "client_id": "bot", "sub": "bot", "email": "bot@example.org"},
    {"client_id": "bot"},
    {"sub": "bot"},
]


@pytest.mark.parametrize("claims", USERLESS)
def test_an_agent_with_its_own_credentials_acts_for_nobody(claims: dict[str, Any]) -> None:
    found = who(RULES, **claims)
    assert (found.id, found.on_behalf_of) == ("agent:bot", None)


@pytest.mark.parametrize(
    "claims",
    [
        {"client_id": "bot", "sub": "u-17"},
        {"azp": "bot", "client_id": "other", "sub": "bot"},
        {"client_id": "bot", "sub": None},
        {"client_id": "console", "sub": "u-17", "act": {"sub": "bot"}},
        {"client_id": "bot", "sub": "bot", "act": {"sub": "bot"}},
    ],
)
def test_a_user_who_could_not_be_known_again_among_approvers_is_refused(claims: dict[str, Any]) -> None:
    """An agent that leaves out a scope has no email in its token, and would be approved by whose email that is."""
    for rules in (RULES, replace(RULES, on_behalf_of=("sub",)), replace(RULES, on_behalf_of=("email",))):
        assert refused(rules, **claims) == "names its user by no claim by which people are known here"
    assert who(RULES, **(claims | {"email": "ann"})).on_behalf_of == "ann"
    assert "user" in refused(RULES, **(claims | {"email": ["ann"]}))


def test_a_token_without_a_subject_is_of_the_person_that_it_names() -> None:
    assert who(RULES, client_id="bot", email="ann").on_behalf_of == "ann"
    assert who(replace(RULES, prefix="x."), client_id="bot", email="ann").on_behalf_of == "x.ann"


def test_where_nobody_logs_in_a_subject_is_no_approver() -> None:
    assert who(Whom(), client_id="bot", sub="u-17").on_behalf_of is None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"person": ("email",), "people_clients": frozenset()}, "people_clients"),
        ({"roles_claim": None}, "claims.roles"),
        ({"role_clients": frozenset({"console"})}, "role_clients"),
        ({"tenant": "acme", "tenant_claim": ("org",)}, "claims.tenant"),
        ({"prefix": "/"}, "prefix"),
    ],
)
def test_rules_that_do_not_belong_together_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(RULES, **more)
