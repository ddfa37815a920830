# Private data, untrusted content and a way out, in one session: whoever wrote the content may have what is private.
# Two of them are a working day; with the third a person decides, or nobody.
#
#   "lethal_trifecta": {"private": ["private"], "untrusted": ["web"], "outbound": ["outbound"], "then": "DENY"}
#
# Needs `"session_facts": true`. Labels are the gateway's: of tools and servers (`labels`), of results (`result_labels`).
package agentgate.packs.lethal_trifecta

import data.agentgate.lib.access
import data.agentgate.lib.labels
import data.agentgate.lib.options as opt
import data.agentgate.lib.session

options := data.packs.lethal_trifecta

shape := {
	"private": "names",
	"untrusted": "names",
	"outbound": "names",
	"writes": "flag",
	"then": "action",
	"approval": "terms",
}

troubles := opt.troubles(options, shape)

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": "What the session did is not known: session_facts is not true"} if {
	not session.is_known
}

findings contains object.union({"action": opt.action(options, "REQUIRE_APPROVAL"), "reason": reason}, terms) if {
	count(troubles) == 0
	sends_out
	labels.any_of(labels.with_call, object.get(options, "private", ["private", "pii", "secret"]))
	labels.any_of(labels.with_call, object.get(options, "untrusted", ["untrusted"]))
}

reason := "The session has private data and untrusted content, and this tool can send out"

sends_out if labels.any_of(labels.of_tool, object.get(options, "outbound", ["outbound"]))

# What changes something elsewhere tells somebody something, unless the options say that it does not count.
sends_out if {
	object.get(options, "writes", true) == true
	not access.is_read_call
}

terms := {"approval": options.approval} if {
	opt.has(options, "approval")
	opt.action(options, "REQUIRE_APPROVAL") == "REQUIRE_APPROVAL"
} else := {}
