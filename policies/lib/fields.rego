# Names of fields, wherever they are in the arguments, whatever the case and however words are put together:
# `password`, `Pass_Word`, `pass-word` and `pass.word` are one.
package agentgate.lib.fields

# Stands around names, so that thousands of them are read as one text. A name that has it in it counts as several.
between := "\u001f"

# Names without case, separators and what cannot be seen, as a text. One `replace` after another:
# `strings.replace_n` takes three times as long.
plain(names) := concat("", [between, visible(bare), between]) if {
	lowered := lower(concat(between, names))
	words := replace(replace(replace(replace(lowered, "_", ""), "-", ""), ".", ""), " ", "")
	bare := replace(replace(replace(replace(words, ":", ""), "/", ""), "[", ""), "]", "")
}

visible(text) := text if {
	not regex.match(`[^ -~\x1f]`, text)
} else := strings.replace_n(
	{"\u00a0": "", "\u00ad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": ""},
	text,
)

# The members of objects and lists that may have members themselves.
below(values) := [member | some value in values; some member in value; may_have(member)]

may_have(value) if is_object(value)

may_have(value) if is_array(value)

# Every name of a member, at any depth: level by level, for `walk` makes a path to everything that it finds. It finds
# what is deeper still.
names(value) := {name |
	one := [each | some each in [value]; may_have(each)]
	two := below(one)
	three := below(two)
	four := below(three)
	some level in [one, two, three, four]
	some each in level
	is_object(each)
	some name, _ in each
} | {name |
	some each in below(below(below(below([value]))))
	walk(each, [path, _])
	count(path) > 0
	name := path[count(path) - 1]
	is_string(name)
}

# Those of `wanted` that are names in `value`.
found(value, wanted) := {one |
	spelt := plain(names(value))
	some one in wanted
	contains(spelt, plain([one]))
}
