# What the session did before this call. `data.session_facts: true` makes the gateway tell it; without that nothing
# here is known, and rules must say what they do then: `not session.is_known` is the safe way to begin.
package agentgate.lib.session

is_known if {
	is_array(input.session.labels)
	is_object(input.session.prior)
	is_number(input.session.calls)
}

# The labels of all data that the session has touched.
labels contains label if some label in input.session.labels

has_label(label) if label in input.session.labels

# How often a tool was called, and it went well. Undefined where that is not known.
calls_of(tool) := past.calls if {
	past := input.session.prior[tool]
} else := 0 if {
	is_known
}

called(tool) if calls_of(tool) > 0

# Whether a call of the tool ended well within so many seconds before this one: require_prior.
called_within(tool, seconds) if {
	past := input.session.prior[tool]
	past.calls > 0
	past.age_s <= seconds
}

# Whether this call would be one more than `most` calls of its session.
is_over(most) if not is_below(most)

is_below(most) if input.session.calls < most
