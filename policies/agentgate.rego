# The shipped policy: reads are allowed, writes want an approval, everything else is denied.
#
# The gateway asks for two documents:
#
#   agentgate/decision   {action, reason, matched_rule, allowed_scope?, is_write_action} for one call
#   agentgate/tools      {name: "allow" | "approval"} of all that a caller might call
#
# input: {tool_name, arguments, session_id, context, has_approval_token, agent: {id, kind, roles, tenant},
#         tool: {name, access, upstream, labels?} or {}, session: {id, and its past where session_facts is true},
#         parsed? (what the gateway's parsers say about arguments), door, time}
#
# data.json:
#
#   read_only_tools, write_tools, all_known_tools   lists of tool names; a name in both of the first two is a write
#   rate_limits                                     {tool: calls per window}; read by the gateway, not here
#   roles                                           {key: {"deny": [tool, ...], "allow": [tool, ...] or "*"}}
#   packs                                           {pack: options}: packs/*.rego that narrow what is said here
#
# A key of `roles` is an agent's id as it stands in input.agent.id, or the name of a role. Every entry that fits
# the caller counts: a tool that any of them denies is denied, and where one or more have an `allow`, a tool must
# be in one of these. Entries only ever narrow: an `allow` does not make an unknown tool known, nor a write free.
# An entry that is not of this form denies everything to those it fits.
#
# `data.tools` is the gateway's registry, {name: {name, access, upstream}}, which the gateway adds to the data.
package agentgate

# What the rules of this file say, narrowed by the packs that data.json switches on. Most installations have none, and
# pay nothing for them.
decision := ruling if {
	not data.packs
} else := narrowed

default chosen := {}

chosen := data.packs

default ruling := {
	"action": "DENY",
	"reason": "No matching rule",
	"matched_rule": "default_deny",
	"is_write_action": false,
}

# One chain, so that two rules can never speak at once: the first that holds decides.
ruling := refused("role_required", "Caller has no role to call tools") if {
	not may_call
} else := refused("unknown_tool", "Tool not in allowlist") if {
	not is_known(input.tool_name)
} else := refused("role_denied", "Tool is denied to this caller") if {
	not is_open(input.tool_name)
} else := allowed("write_with_approval", "Write approved", "write") if {
	is_write_call
	input.has_approval_token == true
} else := wants_approval if {
	is_write_call
} else := allowed("read_only_tools", "Read-only tool", "read") if {
	declared_read(input.tool_name) # and not a write, or the chain would not have come here
}

# What this caller might call, so that a list of tools can be shown without asking once for each.
tools[name] := "allow" if {
	some name in known_tools
	may_call
	is_open(name)
	is_read(name)
	not is_hidden(name)
}

tools[name] := "approval" if {
	some name in known_tools
	may_call
	is_open(name)
	is_write(name)
	not is_hidden(name)
}

refused(rule, reason) := {
	"action": "DENY",
	"reason": reason,
	"matched_rule": rule,
	"is_write_action": is_write_call,
}

allowed(rule, reason, scope) := {
	"action": "ALLOW",
	"reason": reason,
	"matched_rule": rule,
	"allowed_scope": scope,
	"is_write_action": is_write_call,
}

wants_approval := {
	"action": "REQUIRE_APPROVAL",
	"reason": "Write requires approval",
	"matched_rule": "write_requires_approval",
	"is_write_action": true,
}

may_call if {
	is_array(input.agent.roles)
	some role in input.agent.roles
	role in {"agent", "admin"}
}

known_tools contains name if some name in data.all_known_tools

known_tools contains name if some name, _ in data.tools

# Not `name in known_tools`: one call should not pay for building the set of all.
is_known(name) if {
	_ = data.tools[name]
} else if {
	name in data.all_known_tools
}

# Whoever says "write" wins: the lists, the registry in the data, or the declaration that came with the call.
is_write(name) if name in data.write_tools

is_write(name) if data.tools[name].access == "write"

is_write(name) if {
	input.tool.access == "write"
	input.tool.name == name
}

default is_write_call := false

is_write_call if is_write(input.tool_name)

is_read(name) if {
	declared_read(name)
	not is_write(name)
}

declared_read(name) if name in data.read_only_tools

declared_read(name) if data.tools[name].access == "read"

default role_table := {}

role_table := data.roles

# The entries that fit the caller: the one of its id, and those of its roles.
entries contains entry if {
	some key in caller_keys
	entry := role_table[key]
}

caller_keys contains input.agent.id

caller_keys contains role if some role in input.agent.roles

# The roles, if any, leave this tool open to the caller. Most installations have none, and pay nothing for them.
is_open(name) if {
	role_table == {}
} else if {
	is_object(role_table)
	every entry in entries {
		is_well_formed(entry)
		not name in object.get(entry, "deny", [])
	}
	is_permitted(name)
}

is_permitted(_) if not is_narrowed

is_permitted(name) if {
	some entry in entries
	permits(entry.allow, name)
}

is_narrowed if {
	some entry in entries
	_ = entry.allow
}

permits(allow, _) if allow == "*"

permits(allow, name) if {
	is_array(allow)
	name in allow
}

is_well_formed(entry) if {
	is_object(entry)
	every key, _ in entry {
		key in {"allow", "deny"}
	}
	is_array(object.get(entry, "deny", []))
	is_allow(object.get(entry, "allow", "*"))
}

is_allow(value) if value == "*"

is_allow(value) if is_array(value)

# --- packs ---

# A pack objects to calls: its `findings` are {action: "DENY" | "REQUIRE_APPROVAL", reason, approval?}. It can take
# away and never give. One that is not there denies, and so does a finding that is not of this form.
narrowed := ruling if {
	ruling.action == "DENY"
} else := stopped(denials[0]) if {
	count(denials) > 0
} else := stopped({"pack": "packs", "reason": "Packs want approvals on different terms"}) if {
	count(terms) > 1
} else := object.union(ruling, agreed) if {
	ruling.action == "REQUIRE_APPROVAL"
} else := ruling if {
	input.has_approval_token == true
} else := object.union(asks(questions[0]), agreed) if {
	count(questions) > 0
} else := ruling if {
	count(denials) == 0
	count(questions) == 0
}

stopped(objection) := {
	"action": "DENY",
	"reason": objection.reason,
	"matched_rule": rule_of(objection.pack),
	"is_write_action": ruling.is_write_action,
}

asks(objection) := {
	"action": "REQUIRE_APPROVAL",
	"reason": objection.reason,
	"matched_rule": rule_of(objection.pack),
	"is_write_action": ruling.is_write_action,
}

rule_of(pack) := concat("", ["pack:", pack]) if {
	is_string(pack)
} else := "pack:"

# In the order of their names, so that the same call gets the same answer everywhere.
denials := sort([objection | some objection in objections; objection.action == "DENY"])

questions := sort([objection | some objection in objections; objection.action == "REQUIRE_APPROVAL"])

terms contains objection.approval if some objection in questions

terms contains value if {
	some name, value in ruling # which may have them where its rules are yours
	name == "approval"
}

agreed := {"approval": wanted} if {
	some wanted in terms
} else := {}

objections contains {"pack": "packs", "action": "DENY", "reason": "data.packs is not an object"} if {
	not is_object(chosen)
}

objections contains {"pack": name, "action": "DENY", "reason": "There is no pack of this name"} if {
	some name, _ in chosen
	not data.agentgate.packs[name].findings
}

objections contains object.union({"pack": name, "action": "DENY", "reason": reason_of(finding)}, said) if {
	some name, _ in chosen
	some finding in data.agentgate.packs[name].findings
	said := question_of(finding)
}

question_of(finding) := object.filter(finding, ["action", "approval"]) if {
	finding.action == "REQUIRE_APPROVAL"
} else := {}

reason_of(finding) := finding.reason if {
	is_string(finding.reason)
} else := "It is not said why"

is_hidden(name) if {
	some pack, _ in chosen
	name in data.agentgate.packs[pack].hidden
}
