"""Attacks on approvals: A25 to A30 of the threat list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentgate.core.visible import visible
from agentgate.edges.framework import ROUTES
from tests import approving
from tests.approving import ADA, ADA_TOO, BOB, BOT, CYD, EVE, OLGA, OTHER_BOT, SELF, SLY, body, prices, write
from tests.gateway import GatewayProcess, run_cli, until

CONFIG = {
    "auth": {"keys": approving.KEYS},
    "server": {"refusals_per_second": 1_000_000, "hosts": ["gate.example"]},
    "containment": {"rate_window_s": 0.001},
}
HIDING = "pay\u202eevil\u202c \u200b\u2066x\u2069 \u0007\ufeff"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policies")


@pytest.fixture(scope="module")
def house(policy: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(config=CONFIG, env=approving.policies(policy)) as process:
        yield process


@pytest.fixture
def bot(house: GatewayProcess) -> httpx.Client:
    return house.client(BOT)


def approved(house: GatewayProcess, url: str, key: str = ADA) -> dict[str, Any]:
    answer = house.client(key).post(url + "/approve")
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_a25_fifty_at_once_by_token_and_without_redeem_one_approval(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    token = approved(house, write(bot, session)["approval"]["url"])["approval_token"]
    tokens = [{"approval_token": token} if number % 2 else {} for number in range(50)]
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda more: write(bot, session, **more), tokens))
    assert sum(answer["success"] for answer in answers) == 1
    assert prices(bot, session) == [1]


def test_a26_no_byte_of_an_approved_call_can_be_changed(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    raw = json.dumps(body(session), separators=(",", ":"))
    token = approved(house, write(bot, session)["approval"]["url"])["approval_token"]
    tried = 0
    for place in range(len(raw)):
        changed = raw[:place] + chr(ord(raw[place]) ^ 1) + raw[place + 1 :]
        try:
            value = json.loads(changed)
        except ValueError:
            continue
        for more in ({}, {"approval_token": token}):
            answer = bot.post("/tools/call", json={**value, **more}).json()
            assert not answer.get("success"), changed
            tried += 1
    assert tried > 50
    assert not write(house.client(OTHER_BOT), session, approval_token=token)["success"]
    assert prices(bot, session) == []
    assert write(bot, session, approval_token=token)["success"] is True


def test_a27_an_approver_sees_every_character_of_the_call(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    long = "".join(chr(33 + number % 90) for number in range(10_000))
    sent = {"table": "products", "data": {"name": HIDING + long, "price": 1, "\u202ekey": None}}
    asked = bot.post("/tools/call", json=body(session) | {"arguments": sent}).json()
    shown = house.client(ADA).get(asked["approval"]["url"]).json()
    assert shown["call"]["arguments"] == sent
    assert shown["text"] == visible(shown["text"])
    assert "pay[U+202E]evil[U+202C] [U+200B][U+2066]x[U+2069]" in shown["text"]
    assert '"[U+202E]key"' in shown["text"]
    listed = house.client(ADA).get("/approvals", params={"prefix": shown["id"]}).json()["approvals"][0]
    assert listed["arguments_text"] == visible(listed["arguments_text"])
    told = run_cli("approvals", "show", shown["id"], env={"AGENTGATE_URL": house.url, "AGENTGATE_KEY": ADA})
    assert told.returncode == 0, told.stderr
    assert all(line == visible(line) for line in told.stdout.splitlines())
    assert "[U+202E]evil" in told.stdout
    assert json.dumps(long)[1:-1] in told.stdout
    assert "[U+202E]key" in told.stdout


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ("session", None),
        ("agent", "bot"),
        ("tool", "db_insert"),
        ("server", "demo"),
        ("tenant", "default"),
        ("global", ""),
    ],
)
def test_a28_no_approval_survives_a_kill_that_covered_it(
    house: GatewayProcess, bot: httpx.Client, session: str, scope: str, target: str | None
) -> None:
    yes = write(bot, session)["approval"]
    asked = write(bot, session, price=2)["approval"]
    token = approved(house, yes["url"])["approval_token"]
    operator, ada = house.client(OLGA), house.client(ADA)
    target = session if target is None else target
    kill = operator.post("/kills", json={"scope": scope, "target": target, "reason": "test"}).json()
    assert house.admin().post(f"/kills/{kill['id']}/release", json={"force": True}).status_code == 200
    answer = write(bot, session, approval_token=token)  # whether anybody has swept yet or not
    assert (answer["success"], answer["decision"]) == (False, "REQUIRE_APPROVAL")
    late = ada.post(asked["url"] + "/approve")
    assert (late.status_code, late.json()["reason_code"]) == (409, "conflict")
    for one in (yes, asked):
        found = until(lambda one=one: _of_state(ada, one["url"], "void"))  # type: ignore[misc]
        assert (found["why"], found["call"]) == ("killed", None)
    assert not write(bot, session)["success"]
    assert prices(bot, session) == []


def _of_state(client: httpx.Client, url: str, state: str) -> dict[str, Any] | None:
    found: dict[str, Any] = client.get(url).json()
    return found if found["state"] == state else None


def test_a28_a_kill_of_others_leaves_an_approval(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    approved(house, write(bot, session)["approval"]["url"])
    kill = house.client(OLGA).post("/kills", json={"scope": "session", "target": "somebody-else"}).json()
    assert write(bot, session)["success"] is True
    house.admin().post(f"/kills/{kill['id']}/release", json={"force": True})


def test_a28_no_approval_survives_a_change_of_policy(
    house: GatewayProcess, policy: Path, bot: httpx.Client, session: str
) -> None:
    yes, asked = write(bot, session)["approval"], write(bot, session, price=2)["approval"]
    token = approved(house, yes["url"])["approval_token"]
    approving.change_policy(policy, int(session.rpartition("-")[2]))
    assert house.admin().post("/admin/policies/reload").status_code == 200
    answer = write(bot, session, approval_token=token)
    assert (answer["success"], answer["decision"]) == (False, "REQUIRE_APPROVAL")
    assert house.client(ADA).post(asked["url"] + "/approve").status_code == 409
    for one in (yes, asked):
        found = until(lambda one=one: _of_state(house.client(ADA), one["url"], "void"))  # type: ignore[misc]
        assert found["why"] == "policy_changed"


def test_a28_no_approval_outlives_the_time_that_policy_gives(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    asked = write(bot, session, terms={"expires_in_s": 1})["approval"]
    token = approved(house, asked["url"])["approval_token"]
    until(lambda: _of_state(house.client(ADA), asked["url"], "expired"))
    assert not write(bot, session, terms={"expires_in_s": 1}, approval_token=token)["success"]


def test_a29_nobody_approves_a_call_of_their_own(house: GatewayProcess, session: str) -> None:
    own = house.client(SELF)
    url = write(own, session)["approval"]["url"]
    for verb, more in (("approve", {}), ("deny", {}), ("edit", {"arguments": {"table": "products", "data": {}}})):
        answer = own.post(f"{url}/{verb}", json=more)
        assert (answer.status_code, answer.json()["reason_code"]) == (403, "forbidden"), verb
    assert not write(own, session)["success"]


def test_a29_one_person_is_one_vote_whatever_the_key(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    two = {"quorum": 2}
    url = write(bot, session, terms=two)["approval"]["url"]
    first = approved(house, url)
    assert (first["state"], first["approval_token"], [vote["by"] for vote in first["votes"]]) == (
        "pending",
        None,
        ["person:ada"],
    )
    for key in (ADA, ADA_TOO):
        again = house.client(key).post(url + "/approve")
        assert (again.status_code, again.json()["reason_code"]) == (409, "conflict")
    assert not write(bot, session, terms=two)["success"]
    last = approved(house, url, BOB)
    assert (last["state"], [vote["by"] for vote in last["votes"]]) == ("approved", ["person:ada", "person:bob"])
    assert write(bot, session, terms=two, approval_token=last["approval_token"])["success"] is True


def test_a29_votes_at_once_are_counted_once_each(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session, terms={"quorum": 3})["approval"]["url"]
    voters = [house.client(key) for key in (ADA, ADA_TOO, BOB, BOB, ADA, BOB)]
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda voter: voter.post(url + "/approve").status_code, voters))
    assert sorted(statuses) == [200, 200, 409, 409, 409, 409]
    shown = house.client(ADA).get(url).json()
    assert (shown["state"], len(shown["votes"])) == ("pending", 2)


def test_a29_an_agent_and_a_stranger_and_who_is_not_listed_do_not_count(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    terms = {"quorum": 1, "approvers": ["person:bob", "person:cyd"]}
    url = write(bot, session, terms=terms)["approval"]["url"]
    for key, status in ((SLY, 403), (BOT, 403), (ADA, 403), (OLGA, 403), (EVE, 404)):
        assert house.client(key).post(url + "/approve").status_code == status, key
        assert house.client(key).post(url + "/deny").status_code == status, key
    approved(house, url, CYD)
    assert write(bot, session, terms=terms)["success"] is True


def test_a28_what_is_taken_back_carries_nothing_and_only_who_may_answer_takes_it_back(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    terms = {"quorum": 1, "approvers": ["person:bob", "person:cyd", "person:self"]}
    url = write(bot, session, terms=terms)["approval"]["url"]
    token = approved(house, url, CYD)["approval_token"]
    for key, status in ((SLY, 403), (BOT, 403), (OTHER_BOT, 403), (ADA, 403), (OLGA, 403), (EVE, 404)):
        assert house.client(key).post(url + "/void").status_code == status, key
    assert house.client().post(url + "/void").status_code == 401
    assert house.client(BOB).get(url).json()["state"] == "approved"
    taken = house.client(BOB).post(url + "/void", json={"reason": "not on a Friday"})
    assert (taken.status_code, taken.json()["state"], taken.json()["why"]) == (200, "void", "withdrawn")
    shown = house.client(CYD).get(url).json()
    assert (shown["state"], shown["call"], shown["text"]) == ("void", None, None)
    again = house.client(CYD).post(url + "/void")
    assert (again.status_code, again.json()["reason_code"]) == (409, "conflict")
    for more in ({"approval_token": token}, {}):
        answer = write(bot, session, terms=terms, **more)
        assert (answer["success"], answer["decision"]) == (False, "REQUIRE_APPROVAL")
    assert prices(bot, session) == []
    own = house.client(SELF)
    url = write(own, f"{session}-own", terms=terms)["approval"]["url"]
    assert own.post(url + "/void").status_code == 403


def test_a28_what_was_used_or_denied_is_not_taken_back(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    used = write(bot, session)["approval"]["url"]
    approved(house, used)
    assert write(bot, session)["success"] is True
    denied = write(bot, session, price=2)["approval"]["url"]
    house.client(ADA).post(denied + "/deny")
    for url, state in ((used, "spent"), (denied, "denied")):
        answer = house.client(ADA).post(url + "/void")
        assert (answer.status_code, answer.json()["reason_code"]) == (409, "conflict")
        assert house.client(ADA).get(url).json()["state"] == state


def test_a28_of_twenty_withdrawals_and_redemptions_at_once_one_counts(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    people = [house.client(ADA), house.client(BOB)]
    with ThreadPoolExecutor(20) as pool:
        for number in range(5):
            of = f"{session}-{number}"
            url = approved(house, write(bot, of)["approval"]["url"])["id"]
            voids, calls = [], []
            for turn in range(10):
                calls.append(pool.submit(write, bot, of))
                voids.append(pool.submit(people[turn % 2].post, f"/approvals/{url}/void"))
            taken = sorted(void.result().status_code for void in voids)
            ran = sum(call.result()["success"] for call in calls)
            assert taken in ([200] + [409] * 9, [409] * 10)
            assert (ran, prices(bot, of)) in ((1, [1]), (0, []))
            assert ran + (taken[0] == 200) == 1
            assert people[0].get(f"/approvals/{url}").json()["state"] == ("spent" if ran else "void")


def test_a30_no_get_changes_an_approval_or_writes_an_event(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    asked = write(bot, session)["approval"]
    admin = house.admin()
    names = {"approval_id": asked["id"], "session_id": session, "name": "db_insert", "level": "0", "index": "000"}
    before = admin.get("/audit", params={"limit": 1}).json()["size"]
    visited = 0
    for route in ROUTES:
        if "GET" not in (route.methods or ()) or "text/event-stream" in str(route.responses):
            continue
        path = route.path_format
        for name in route.param_convertors:
            path = path.replace("{" + name + "}", names.get(name, "some-id"))
        with admin.stream("GET", path) as answer:
            assert answer.status_code < 500 or path == "/readyz", path
        visited += 1
    assert visited > 20
    new = admin.get("/audit", params={"limit": 1000, "first": before}).json()["events"]
    # what the gateway notes by itself names nobody; that somebody took evidence is on record, and changes nothing
    assert {line["event"]["kind"] for line in new if "principal" in line["event"]} <= {"exported"}
    assert admin.get(asked["url"]).json()["state"] == "pending"


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_a30_the_page_behind_a_link_says_what_to_type_and_nothing_of_any_approval(
    house: GatewayProcess, bot: httpx.Client, session: str
) -> None:
    asked = write(bot, session)["approval"]
    nobody = house.client(**BROWSER)
    page = nobody.get(asked["url"])
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"agentgate approve {asked['id']} --url {house.url}\n" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none';")
    assert (page.headers["cache-control"], page.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert not any(sign in page.text for sign in ("<script", "<form", "<a ", "src=", "db_insert", session, "agent:bot"))
    unknown = "apr-" + "0" * len(asked["id"].removeprefix("apr-"))
    other = nobody.get(f"/approvals/{unknown}")
    assert other.text == page.text.replace(asked["id"], unknown)
    of_its_own = {"date": "", "x-correlation-id": ""}
    assert {**other.headers, **of_its_own} == {**page.headers, **of_its_own}


def test_a30_the_page_sends_nobodys_key_in_the_clear(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    """Behind a proxy that ends TLS, the gateway is asked by http; only `server.base_url` would say more."""
    asked = write(bot, session)["approval"]
    page = house.client(**BROWSER).get(f"/approvals/{asked['id']}", headers={"Host": "gate.example"})
    assert f"agentgate approve {asked['id']} --url URL\n" in page.text
    assert "gate.example" not in page.text


@pytest.mark.parametrize("sly", ["apr-1$(id)", "apr-1%3Cb%3E", "apr-1;id", "apr-1%60id%60", "x"])
def test_a30_a_made_up_link_has_nobody_type_what_is_in_it(house: GatewayProcess, sly: str) -> None:
    page = house.client(**BROWSER).get(f"/approvals/{sly}")
    assert (page.status_code, "agentgate approve ID --url" in page.text) == (200, True)
    assert "apr-1" not in page.text


def test_a30_the_page_is_for_browsers_without_a_key(house: GatewayProcess, bot: httpx.Client, session: str) -> None:
    url = write(bot, session)["approval"]["url"]
    for accept in ("*/*", "application/json", "text/*"):
        refused = house.client(Accept=accept).get(url)
        assert (refused.status_code, refused.json()["reason_code"]) == (401, "unauthenticated"), accept
    assert house.client("no-such-key", **BROWSER).get(url).json()["reason_code"] == "invalid_key"
    assert house.client(ADA, **BROWSER).get(url).json()["state"] == "pending"
    for other in ("/approvals", "/kills"):
        assert house.client(**BROWSER).get(other).status_code == 401
    assert house.client(**BROWSER).post(url + "/approve").status_code == 401


@pytest.mark.parametrize("verb", ["approve", "deny", "edit", "void"])
def test_a30_a_link_or_a_form_of_another_site_approves_nothing(
    house: GatewayProcess, bot: httpx.Client, session: str, verb: str
) -> None:
    url = write(bot, session)["approval"]["url"]
    ada = house.client(ADA)
    for method in ("GET", "HEAD"):
        assert ada.request(method, f"{url}/{verb}").status_code == 405
    assert ada.post(f"{url}/{verb}", headers={"Origin": "https://evil.example"}).status_code == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ada.post(f"{url}/{verb}", content=b"reason=x", headers=form).status_code in (415, 422)
    assert ada.get(url).json()["state"] == "pending"
