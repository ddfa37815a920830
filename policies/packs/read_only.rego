# Nothing but reads: what is not declared a read, or is called a write anywhere, is denied, approved or not.
#
#   "read_only": {"except": ["create_ticket"]}
package agentgate.packs.read_only

import data.agentgate.lib.access
import data.agentgate.lib.options as opt

options := data.packs.read_only

troubles := opt.troubles(options, {"except": "names"})

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": "Only reads are allowed"} if {
	not access.is_read_call
	not is_excepted(input.tool_name)
}

# Not shown to callers either.
hidden contains name if {
	some name in access.not_reads
	not is_excepted(name)
}

is_excepted(name) if {
	is_array(options.except)
	name in options.except
}
