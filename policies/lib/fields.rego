# Names of fields, wherever they are in the arguments, whatever the case and however words are put together:
# `password`, `Pass_Word`, `pass-word` and `pass.word` are one.
package agentgate.lib.fields

# A name without case, separators and what cannot be seen. One `replace` after another: `strings.replace_n` takes
# three times as long, and arguments may have a thousand names.
plain(name) := visible(bare) if {
	lowered := lower(name)
	words := replace(replace(replace(replace(lowered, "_", ""), "-", ""), ".", ""), " ", "")
	bare := replace(replace(replace(replace(words, ":", ""), "/", ""), "[", ""), "]", "")
}

visible(name) := name if {
	not regex.match(`[^ -~]`, name)
} else := strings.replace_n(
	{"\u00a0": "", "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": ""},
	name,
)

# Every name of a member, at any depth.
names(value) := {name |
	walk(value, [path, _])
	count(path) > 0
	name := path[count(path) - 1]
	is_string(name)
}

# Those of `wanted` that are names in `value`.
found(value, wanted) := {one |
	spelt := {plain(name) | some name in names(value)}
	some one in wanted
	plain(one) in spelt
}
