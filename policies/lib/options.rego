# The options of a pack, checked: whatever is not of the expected form is said, and the pack denies.
#
# A shape is {name: form}; a form is one of `names` (texts, at least one), `numbers`, `flag`, `text`, `action`,
# `terms`, or any of these with `!` after it, where the option must be there.
package agentgate.lib.options

# Sentences on what is wrong with options; empty if nothing is.
troubles(options, _) := {"they are not an object"} if not is_object(options)

troubles(options, shape) := (unknown | missing) | misfits if {
	is_object(options)
	unknown := {sentence |
		some name, _ in options
		not shape[name]
		sentence := concat("", ["there is no option ", name])
	}
	missing := {sentence |
		some name, form in shape
		endswith(form, "!")
		not has(options, name)
		sentence := concat("", ["the option ", name, " is missing"])
	}
	misfits := {sentence |
		some name, value in options
		form := trim_suffix(shape[name], "!")
		not fits(form, value)
		sentence := concat("", ["the option ", name, " is not of the right form"])
	}
}

has(options, name) if {
	some key, _ in options
	key == name
}

fits("flag", value) if is_boolean(value)

fits("text", value) if is_string(value)

fits("action", value) if value in {"DENY", "REQUIRE_APPROVAL"}

fits("names", value) if {
	is_array(value)
	count(value) > 0
	every name in value {
		is_string(name)
		name != ""
	}
}

fits("numbers", value) if {
	is_array(value)
	count(value) > 0
	every number in value {
		is_number(number)
	}
}

# What core reads more strictly still: who may approve, how many of them, for how long.
fits("terms", value) if {
	is_object(value)
	every key, _ in value {
		key in {"quorum", "approvers", "expires_in_s"}
	}
}

# What a pack does about a call that it objects to, unless its options say otherwise.
action(options, otherwise) := value if {
	value := options.then
} else := otherwise

# Whether the tool of this call is one that the options are about: those they name, or any if they name none.
covers_tool(options) if not has(options, "tools")

covers_tool(options) if input.tool_name in options.tools
