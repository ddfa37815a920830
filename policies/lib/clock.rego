# Time windows. `input.time` is RFC 3339 in UTC; an offset is text such as "+01:00". There are no zone names here: an
# offset does not change in spring, so who wants summer time says so in data.json.
package agentgate.lib.clock

days := ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

# Minutes since midnight of "09:30". Undefined for anything else.
minutes(text) := (hour * 60) + minute if {
	regex.match(`^([01][0-9]|2[0-3]):[0-5][0-9]$`, text)
	[hours, rest] := split(text, ":")
	hour := to_number(trim_left_zero(hours))
	minute := to_number(trim_left_zero(rest))
}

# Minutes east of UTC of "+01:00", "-05:30" or "Z". Undefined for anything else.
offset_minutes("Z") := 0

offset_minutes(text) := minutes(substring(text, 1, -1)) if startswith(text, "+")

offset_minutes(text) := 0 - minutes(substring(text, 1, -1)) if startswith(text, "-")

# This moment where the clock is `offset` from UTC: {day, minute}, with minutes since midnight.
local(offset) := {"day": lower(time.weekday(there)), "minute": (hour * 60) + minute} if {
	there := time.parse_rfc3339_ns(input.time) + ((offset_minutes(offset) * 60) * 1000000000)
	[hour, minute, _] := time.clock(there)
}

# From `from` until just before `to`, on one of `on`. Undefined where anything of it is not understood.
is_within(from, to, on, offset) if {
	now := local(offset)
	now.day in on
	minutes(from) <= now.minute
	now.minute < minutes(to)
}

trim_left_zero(text) := trimmed if {
	trimmed := trim_left(text, "0")
	trimmed != ""
} else := "0"
