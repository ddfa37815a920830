# Certain tools in working hours alone.
#
#   "working_hours": {"days": ["monday", "friday"], "from": "09:00", "to": "17:30", "offset": "+01:00"}
#
# It is about whatever is not a read, unless `tools` names some. The offset is from UTC: see lib/clock.rego.
package agentgate.packs.working_hours

import data.agentgate.lib.access
import data.agentgate.lib.clock
import data.agentgate.lib.options as opt

options := data.packs.working_hours

shape := {"tools": "names", "days": "names!", "from": "text!", "to": "text!", "offset": "text!", "then": "action"}

troubles := opt.troubles(options, shape) | times

times := {"days, from, to and offset are not understood" |
	count(opt.troubles(options, shape)) == 0
	not is_understood
}

is_understood if {
	every day in options.days {
		day in clock.days
	}
	clock.minutes(options.from) < clock.minutes(options.to)
	is_number(clock.offset_minutes(options.offset))
}

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": opt.action(options, "DENY"), "reason": "Outside of working hours"} if {
	count(troubles) == 0
	is_about
	not clock.is_within(options.from, options.to, options.days, options.offset)
}

is_about if {
	opt.has(options, "tools")
	input.tool_name in options.tools
}

is_about if {
	not opt.has(options, "tools")
	not access.is_read_call
}
