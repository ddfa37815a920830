package agentgate_test

import data.agentgate

reads := ["db_query", "file_read", "api_get", "rate_limited_tool", "slow"]

writes := ["db_insert", "db_update", "file_write", "api_post"]

agent := {"id": "agent:bot", "kind": "agent", "roles": ["agent"], "tenant": "default"}

registry := {
	"lookup": {"name": "lookup", "access": "read", "upstream": "helpdesk"},
	"create_ticket": {"name": "create_ticket", "access": "write", "upstream": "helpdesk"},
	"odd": {"name": "odd", "access": "sideways", "upstream": "helpdesk"},
}

call(name) := {
	"tool_name": name,
	"arguments": {},
	"session_id": "s1",
	"context": {},
	"has_approval_token": false,
	"agent": agent,
	"tool": {},
	"session": {"id": "s1"},
	"door": "rest",
	"time": "2026-11-20T00:00:00Z",
}

approved(name) := object.union(call(name), {"has_approval_token": true})

called_by(name, caller) := object.union(object.remove(call(name), ["agent"]), {"agent": caller})

rule_of(question) := rule if {
	rule := agentgate.decision.matched_rule with input as question
}

test_reads_are_allowed if {
	every name in reads {
		agentgate.decision == {
			"action": "ALLOW",
			"reason": "Read-only tool",
			"matched_rule": "read_only_tools",
			"allowed_scope": "read",
			"is_write_action": false,
		} with input as call(name)
	}
}

test_an_approval_changes_nothing_about_a_read if {
	every name in reads {
		rule_of(approved(name)) == "read_only_tools"
	}
}

test_writes_want_approval if {
	every name in writes {
		agentgate.decision == {
			"action": "REQUIRE_APPROVAL",
			"reason": "Write requires approval",
			"matched_rule": "write_requires_approval",
			"is_write_action": true,
		} with input as call(name)
	}
}

test_approved_writes_are_allowed if {
	every name in writes {
		agentgate.decision == {
			"action": "ALLOW",
			"reason": "Write approved",
			"matched_rule": "write_with_approval",
			"allowed_scope": "write",
			"is_write_action": true,
		} with input as approved(name)
	}
}

test_only_true_is_an_approval if {
	every value in ["true", 1, {}, [], "approved", null, {"has_approval_token": true}] {
		question := object.union(object.remove(call("db_insert"), ["has_approval_token"]), {"has_approval_token": value})
		rule_of(question) == "write_requires_approval"
	}
}

test_an_approval_in_the_arguments_is_none if {
	question := object.union(call("db_insert"), {"arguments": {"has_approval_token": true}, "context": {"approved": true}})
	rule_of(question) == "write_requires_approval"
}

test_unknown_tools_are_denied if {
	every name in ["not_a_real_tool", "", "DB_QUERY", "db_query ", "db_query\u0000", "db\u200b_query", "dЬ_query"] {
		agentgate.decision == {
			"action": "DENY",
			"reason": "Tool not in allowlist",
			"matched_rule": "unknown_tool",
			"is_write_action": false,
		} with input as call(name)
	}
}

test_an_approval_makes_no_tool_known if {
	rule_of(approved("not_a_real_tool")) == "unknown_tool"
}

test_a_tool_name_of_another_type_is_unknown if {
	every name in [null, true, 0, [], ["db_query"], {"db_query": true}, {}] {
		question := object.union(object.remove(call("x"), ["tool_name"]), {"tool_name": name})
		rule_of(question) == "unknown_tool"
	}
}

test_a_name_in_no_access_list_is_denied_by_default if {
	agentgate.decision == {
		"action": "DENY",
		"reason": "No matching rule",
		"matched_rule": "default_deny",
		"is_write_action": false,
	} with input as call("loose") with data.all_known_tools as ["loose"]
}

test_a_read_that_is_not_known_is_denied if {
	agentgate.decision.matched_rule == "unknown_tool" with input as call("loose")
		with data.read_only_tools as ["loose"]
}

test_a_name_in_both_lists_is_a_write if {
	agentgate.decision.matched_rule == "write_requires_approval" with input as call("db_query")
		with data.write_tools as ["db_query"]
}

test_declared_tools_follow_their_access if {
	agentgate.decision.matched_rule == "read_only_tools" with input as call("lookup") with data.tools as registry
	agentgate.decision.matched_rule == "write_requires_approval" with input as call("create_ticket")
		with data.tools as registry
	agentgate.decision.matched_rule == "write_with_approval" with input as approved("create_ticket")
		with data.tools as registry
	agentgate.decision.matched_rule == "default_deny" with input as call("odd") with data.tools as registry
}

test_declared_write_beats_a_read_list if {
	agentgate.decision.matched_rule == "write_requires_approval" with input as call("db_query")
		with data.tools as {"db_query": {"name": "db_query", "access": "write", "upstream": "demo"}}
}

test_listed_write_beats_a_declared_read if {
	agentgate.decision.matched_rule == "write_requires_approval" with input as call("db_insert")
		with data.tools as {"db_insert": {"name": "db_insert", "access": "read", "upstream": "demo"}}
}

test_a_call_that_says_write_is_a_write if {
	question := object.union(call("db_query"), {"tool": {"name": "db_query", "access": "write", "upstream": "demo"}})
	rule_of(question) == "write_requires_approval"
}

test_a_call_that_says_read_makes_no_write_a_read if {
	question := object.union(call("db_insert"), {"tool": {"name": "db_insert", "access": "read", "upstream": "demo"}})
	rule_of(question) == "write_requires_approval"
}

test_a_caller_without_the_role_is_denied if {
	every roles in [[], ["operator"], ["auditor", "approver"], ["Agent"], ["agent "], "agent", {"agent": "agent"}, null] {
		agentgate.decision == {
			"action": "DENY",
			"reason": "Caller has no role to call tools",
			"matched_rule": "role_required",
			"is_write_action": false,
		} with input as called_by("db_query", {"id": "agent:bot", "roles": roles})
	}
}

test_admin_may_call if {
	rule_of(called_by("db_query", {"id": "person:root", "roles": ["admin"]})) == "read_only_tools"
}

test_no_agent_is_no_role if {
	rule_of(object.remove(call("db_query"), ["agent"])) == "role_required"
	rule_of({}) == "role_required"
	agentgate.decision.matched_rule == "role_required"
}

test_a_denied_tool_is_denied_to_the_agent if {
	roles := {"agent:bot": {"deny": ["db_query"]}}
	agentgate.decision == {
		"action": "DENY",
		"reason": "Tool is denied to this caller",
		"matched_rule": "role_denied",
		"is_write_action": false,
	} with input as call("db_query") with data.roles as roles
	agentgate.decision.matched_rule == "read_only_tools" with input as call("file_read") with data.roles as roles
	agentgate.decision.matched_rule == "read_only_tools" with data.roles as roles
		with input as called_by("db_query", {"id": "agent:other", "roles": ["agent"]})
}

test_a_denied_write_stays_denied_with_an_approval if {
	agentgate.decision.matched_rule == "role_denied" with input as approved("db_insert")
		with data.roles as {"agent": {"deny": ["db_insert"]}}
}

test_an_allow_list_denies_the_rest if {
	roles := {"agent": {"allow": ["db_query", "db_insert"]}}
	agentgate.decision.matched_rule == "read_only_tools" with input as call("db_query") with data.roles as roles
	agentgate.decision.matched_rule == "write_requires_approval" with input as call("db_insert") with data.roles as roles
	agentgate.decision.matched_rule == "role_denied" with input as call("file_read") with data.roles as roles
}

test_an_allow_of_everything_narrows_nothing if {
	agentgate.decision.matched_rule == "read_only_tools" with input as call("db_query")
		with data.roles as {"agent": {"allow": "*"}}
	agentgate.decision.matched_rule == "unknown_tool" with input as call("nope")
		with data.roles as {"agent": {"allow": "*"}}
}

test_allows_add_up_and_a_deny_beats_them if {
	roles := {"agent:bot": {"allow": ["db_query"]}, "agent": {"allow": ["file_read"], "deny": ["db_query"]}}
	agentgate.decision.matched_rule == "read_only_tools" with input as call("file_read") with data.roles as roles
	agentgate.decision.matched_rule == "role_denied" with input as call("db_query") with data.roles as roles
}

test_an_ill_formed_entry_denies if {
	every entry in [
		null,
		false,
		[],
		"deny",
		{"deny": "db_query"},
		{"deny": {"db_insert": true}},
		{"allow": "db_query"},
		{"allow": {"x": "db_query"}},
		{"allow": null},
		{"denied": ["db_insert"]},
	] {
		agentgate.decision.matched_rule == "role_denied" with input as call("db_query") with data.roles as {"agent": entry}
	}
}

test_ill_formed_roles_deny if {
	every roles in [null, false, [], "agent", 1] {
		agentgate.decision.matched_rule == "role_denied" with input as call("db_query") with data.roles as roles
	}
}

test_tools_are_those_that_could_be_called if {
	expected := object.union({name: "allow" | some name in reads}, {name: "approval" | some name in writes})
	agentgate.tools == expected with input as {"agent": agent}
}

test_tools_know_the_registry if {
	found := agentgate.tools with input as {"agent": agent} with data.tools as registry
	found.lookup == "allow"
	found.create_ticket == "approval"
	not found.odd
}

test_tools_follow_roles if {
	roles := {"agent": {"allow": ["db_query", "db_insert", "nope"], "deny": ["db_insert"]}}
	agentgate.tools == {"db_query": "allow"} with input as {"agent": agent} with data.roles as roles
}

test_tools_are_none_without_a_role if {
	agentgate.tools == {} with input as {"agent": {"id": "person:x", "roles": ["operator"]}}
	agentgate.tools == {} with input as {}
}

test_tools_and_decision_agree if {
	every name, kind in {"allow": "ALLOW", "approval": "REQUIRE_APPROVAL"} {
		listed := agentgate.tools with input as {"agent": agent}
		every tool in [tool | some tool, k in listed; k == name] {
			agentgate.decision.action == kind with input as call(tool)
		}
	}
}
