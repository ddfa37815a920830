# What the gateway's parsers say about the arguments of this call: `input.parsed` is {argument: [reading, ...]}, for
# those arguments that `data.parse` names for the tool. A reading with `error` was not understood.
package agentgate.lib.parsed

kind_of(text) := split(text, ":")[0]

# The arguments of this tool that are of one of `kinds` by data.parse.
arguments(kinds) := {argument |
	some argument, kind in data.parse[input.tool_name]
	kind_of(kind) in kinds
}

# Why a guard over arguments of `kinds` is none: it is said for no tool, or for one of whose arguments data.parse does not
# say that they are of that kind, because either of the two is misspelt.
idle(kinds, options) := idle_tools | idle_all if {
	idle_tools := {sentence |
		some tool in listed(options)
		not is_parsed_for(tool, kinds)
		sentence := concat("", ["data.parse has no argument of that kind for ", tool])
	}
	idle_all := {"data.parse has no argument of that kind" |
		count(listed(options)) == 0
		not is_parsed_for_any(kinds)
	}
}

listed(options) := {tool | some tool in options.tools; is_string(tool)}

is_parsed_for(tool, kinds) if {
	some kind in data.parse[tool]
	kind_of(kind) in kinds
}

is_parsed_for_any(kinds) if {
	some tool, _ in data.parse
	is_parsed_for(tool, kinds)
}

readings(kinds) := [reading |
	some argument in arguments(kinds)
	some reading in input.parsed[argument]
]

understood(kinds) := [reading |
	some reading in readings(kinds)
	not reading.error
]

# Why the arguments cannot be judged; empty if they can. `options` are a pack's: a tool that they name must have
# something to be judged.
troubles(kinds, options) := ((absent | unread) | misread) | shapeless if {
	absent := {"the tool has no argument of the kind that is guarded in data.parse, or none came" |
		input.tool_name in object.get(options, "tools", [])
		count(readings(kinds)) == 0
	}
	unread := {"the arguments were not parsed" |
		count(arguments(kinds)) > 0
		not is_parsed
	}
	misread := {sentence |
		some reading in readings(kinds)
		error := reading.error
		sentence := concat("", [reading.kind, " is not understood: ", error])
	}
	shapeless := {"what the parser says is of no known form" |
		some reading in readings(kinds)
		not is_reading(reading)
	}
}

# A rule of its own: `not is_object(input.parsed)` would be undefined, and not true, where there is no `parsed`.
is_parsed if is_object(input.parsed)

is_reading(reading) if is_string(reading.error)

is_reading(reading) if {
	reading.kind == "sql"
	count(reading.statements) > 0
	is_boolean(reading.comments)
}

is_reading(reading) if {
	reading.kind == "shell"
	count(reading.commands) > 0
	is_array(reading.redirects)
}

is_reading(reading) if {
	reading.kind == "path"
	is_string(reading.path)
}

is_reading(reading) if {
	reading.kind in {"url", "domain"}
	is_string(reading.host)
	is_boolean(reading.ip)
	has_scheme(reading)
}

has_scheme(reading) if reading.kind == "domain"

has_scheme(reading) if is_string(reading.scheme)
