# Whatever is not a read needs an approval, and on these terms. The shipped rules ask for one as well; this pack says
# of whom and of how many, and holds under rules of your own.
#
#   "write_with_approval": {"tools": ["refund"], "approval": {"quorum": 2, "approvers": ["person:alice", "person:bob"]}}
package agentgate.packs.write_with_approval

import data.agentgate.lib.access
import data.agentgate.lib.options as opt

options := data.packs.write_with_approval

troubles := opt.troubles(options, {"tools": "names", "approval": "terms"})

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains object.union({"action": "REQUIRE_APPROVAL", "reason": "Write requires approval"}, terms) if {
	count(troubles) == 0
	opt.covers_tool(options)
	not access.is_read_call
}

terms := {"approval": options.approval} if {
	opt.has(options, "approval")
} else := {}
