# What the statements of a reading of SQL do.
package agentgate.lib.sql

kinds(reading) := {kind |
	some statement in reading.statements
	some kind in statement.kinds
}

tables(reading) := {table |
	some statement in reading.statements
	some table in array.concat(statement.reads, statement.writes)
}

# Functions that the parser does not know to compute and nothing else: `pg_sleep`, `load_file`, anybody's own.
unknown_functions(reading) := {name |
	some statement in reading.statements
	some name in statement.unknown_functions
}

# A table is listed as it is written: `users` does not stand for `other.users`.
not_listed(reading, tables_allowed) := {table |
	some table in tables(reading)
	not table in tables_allowed
}

# A denied table is denied in every schema and in any case.
denied(reading, tables_denied) := {table |
	some table in tables(reading)
	some one in tables_denied
	last(table) == last(one)
}

last(table) := parts[count(parts) - 1] if parts := split(lower(table), ".")

is_plain_read(reading) if kinds(reading) == {"select"}
