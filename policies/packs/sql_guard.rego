# SQL that is read, not matched: which statements, tables and functions a query may have.
#
#   "parse": {"db_query": {"query": "sql:postgres"}}
#   "sql_guard": {"tools": ["db_query"], "kinds": ["select"], "tables": ["orders", "public.items"], "functions": ["now"]}
#
# Without more it allows one plain query: no comments, and no functions that may do more than compute.
package agentgate.packs.sql_guard

import data.agentgate.lib.options as opt
import data.agentgate.lib.parsed
import data.agentgate.lib.sql

options := data.packs.sql_guard

shape := {
	"tools": "names",
	"kinds": "names",
	"tables": "names",
	"deny_tables": "names",
	"functions": "names",
	"comments": "flag",
	"several": "flag",
	"then": "action",
}

troubles := opt.troubles(options, shape) | parsed.idle({"sql"}, options)

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": trouble} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some trouble in parsed.troubles({"sql"}, options)
}

findings contains {"action": opt.action(options, "DENY"), "reason": concat("", ["SQL: ", objection])} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some reading in parsed.understood({"sql"})
	some objection in objections(reading)
}

objections(reading) := ((((statements | several) | comments) | listed) | denied) | functions if {
	statements := {concat("", [kind, " is not allowed"]) |
		some kind in sql.kinds(reading)
		not kind in object.get(options, "kinds", ["select"])
	}
	several := {"several statements" |
		count(reading.statements) != 1
		not object.get(options, "several", false)
	}
	comments := {"comments" |
		not reading.comments == false
		not object.get(options, "comments", false)
	}
	listed := {concat("", ["the table ", table, " is not listed"]) |
		opt.has(options, "tables")
		some table in sql.not_listed(reading, options.tables)
	}
	denied := {concat("", ["the table ", table, " is denied"]) |
		some table in sql.denied(reading, object.get(options, "deny_tables", []))
	}
	functions := {concat("", ["the function ", name, " is not listed"]) |
		some name in sql.unknown_functions(reading)
		not name in object.get(options, "functions", [])
	}
}
