# Arguments that must not have certain fields, at any depth and however they are spelt.
#
#   "forbidden_fields": {"fields": ["password", "is_admin"], "tools": ["update_user"]}
package agentgate.packs.forbidden_fields

import data.agentgate.lib.fields
import data.agentgate.lib.options as opt

options := data.packs.forbidden_fields

troubles := opt.troubles(options, {"fields": "names!", "tools": "names", "then": "action"})

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": opt.action(options, "DENY"), "reason": reason} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some field in fields.found(input.arguments, options.fields)
	reason := concat("", ["The field ", field, " is forbidden"])
}
