# Paths below the roots that are listed, and no others.
#
#   "parse": {"file_read": {"path": "path"}}
#   "path_allow": {"tools": ["file_read"], "under": ["/srv/docs"], "except": ["/srv/docs/private"]}
#
# A path with `..` is denied wherever it would lead. Relative paths need `"relative": true`: only the tool knows where
# they begin.
package agentgate.packs.path_allow

import data.agentgate.lib.options as opt
import data.agentgate.lib.parsed
import data.agentgate.lib.paths

options := data.packs.path_allow

shape := {"tools": "names", "under": "names!", "except": "names", "relative": "flag", "then": "action"}

troubles := (opt.troubles(options, shape) | roots) | parsed.idle({"path"}, options)

roots := {sentence |
	count(opt.troubles(options, shape)) == 0
	some list in ["under", "except"]
	some root in options[list]
	not paths.is_root(root)
	sentence := concat("", ["a root in ", list, " is not an absolute path as it is after normalisation"])
}

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": trouble} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some trouble in parsed.troubles({"path"}, options)
}

findings contains {"action": opt.action(options, "DENY"), "reason": concat("", ["Path: ", objection])} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some reading in parsed.understood({"path"})
	objection := objection_to(reading)
}

objection_to(reading) := "it goes up with .." if {
	not reading.traversal == false
} else := "it is relative" if {
	not reading.absolute == true
	not object.get(options, "relative", false)
} else := "it is below no listed root" if {
	not is_listed(reading)
} else := "it is below a root that is excepted" if {
	paths.is_below_any(reading.path, object.get(options, "except", []))
}

is_listed(reading) if {
	reading.absolute == false
	object.get(options, "relative", false) == true
}

is_listed(reading) if {
	reading.absolute == true
	paths.is_below_any(reading.path, options.under)
}
