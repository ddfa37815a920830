# Shell lines that are read, not matched: which commands they may run, and how these may be put together.
#
#   "parse": {"run": {"command": "shell"}}
#   "shell_guard": {"tools": ["run"], "commands": ["ls", "cat", "grep"], "pipes": true}
#
# Whatever is not switched on is denied: pipes, chains, background, redirects, substitutions, expansions, globs,
# assignments. Commands that run other commands (`bash`, `env`, `xargs`, `git`, ...) must be under `runners` as well.
package agentgate.packs.shell_guard

import data.agentgate.lib.options as opt
import data.agentgate.lib.parsed
import data.agentgate.lib.shell

options := data.packs.shell_guard

features := {"pipes", "chains", "background", "substitutions", "expansions", "globs"}

shape := object.union(
	{
		"tools": "names",
		"commands": "names!",
		"runners": "names",
		"redirects": "flag",
		"assignments": "flag",
		"then": "action",
	},
	{feature: "flag" | some feature in features},
)

troubles := opt.troubles(options, shape) | parsed.idle({"shell"}, options)

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": trouble} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some trouble in parsed.troubles({"shell"}, options)
}

findings contains {"action": opt.action(options, "DENY"), "reason": concat("", ["Shell: ", objection])} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some reading in parsed.understood({"shell"})
	some objection in objections(reading)
}

objections(reading) := ((((listed | runners) | acting) | used) | redirects) | assignments if {
	listed := {concat("", [name, " is not listed"]) | some name in shell.not_listed(reading, options.commands)}
	runners := {concat("", [name, " runs other commands"]) |
		some name in shell.runs_others(reading)
		not name in object.get(options, "runners", [])
	}
	acting := {concat("", [name, " with an argument that writes or runs something"]) |
		some name in shell.acts(reading)
	}
	used := {concat("", [feature, " are not allowed"]) |
		some feature in features
		not reading[feature] == false
		not object.get(options, feature, false)
	}
	redirects := {"redirections are not allowed" |
		count(reading.redirects) != 0
		not object.get(options, "redirects", false)
	}
	assignments := {"assignments are not allowed" |
		shell.is_assigning(reading)
		not object.get(options, "assignments", false)
	}
}
