package agentgate.lib_test

import data.agentgate.lib.access
import data.agentgate.lib.budgets
import data.agentgate.lib.clock
import data.agentgate.lib.domains
import data.agentgate.lib.fields
import data.agentgate.lib.labels
import data.agentgate.lib.options as opt
import data.agentgate.lib.parsed
import data.agentgate.lib.paths
import data.agentgate.lib.session
import data.agentgate.lib.shell
import data.agentgate.lib.sql

past := {
	"id": "s1",
	"calls": 3,
	"bytes": 2000,
	"cost_micros": 0,
	"labels": ["pii", "web"],
	"prior": {"backup": {"calls": 1, "age_s": 59}, "failed": {"calls": 0, "age_s": 1}},
}

# --- session ---

test_prior_calls_count_within_their_time if {
	session.called_within("backup", 59) with input.session as past
	not session.called_within("backup", 58) with input.session as past
	not session.called_within("other", 1000) with input.session as past
	not session.called_within("failed", 1000) with input.session as past
}

test_nothing_is_known_without_facts if {
	not session.is_known with input.session as {"id": "s1"}
	not session.called_within("backup", 60) with input.session as {"id": "s1"}
	not session.calls_of("backup") with input.session as {"id": "s1"}
	session.is_over(1) with input.session as {"id": "s1"}
}

test_calls_are_counted if {
	session.calls_of("backup") == 1 with input.session as past
	session.calls_of("never") == 0 with input.session as past
	session.is_over(3) with input.session as past
	not session.is_over(4) with input.session as past
}

test_a_budget_that_is_not_known_is_past if {
	budgets.is_past({"bytes": 2000}) with input.session as past
	not budgets.is_past({"bytes": 2001, "calls": 4}) with input.session as past
	budgets.is_past({"bytes": 2001}) with input.session as {"id": "s1"}
}

test_labels_of_session_and_tool_come_together if {
	labels.with_call == {"pii", "web", "outbound"} with input as {"session": past, "tool": {"labels": ["outbound"]}}
	labels.any_of({"a", "b"}, ["b"])
	not labels.any_of({"a", "b"}, ["c"])
}

# --- clock ---

at(moment) := {"time": moment}

test_offsets_move_the_day_and_the_minute if {
	clock.local("Z") == {"day": "saturday", "minute": 1410} with input as at("2026-11-21T23:30:00Z")
	clock.local("+01:00") == {"day": "sunday", "minute": 30} with input as at("2026-11-21T23:30:00Z")
	clock.local("-05:30") == {"day": "saturday", "minute": 1080} with input as at("2026-11-21T23:30:00Z")
}

test_windows_begin_with_their_first_minute_and_end_before_their_last if {
	clock.is_within("09:00", "17:00", ["friday"], "Z") with input as at("2026-11-20T09:00:00Z")
	clock.is_within("09:00", "17:00", ["friday"], "Z") with input as at("2026-11-20T16:59:59.999999Z")
	not clock.is_within("09:00", "17:00", ["friday"], "Z") with input as at("2026-11-20T17:00:00Z")
	not clock.is_within("09:00", "17:00", ["friday"], "Z") with input as at("2026-11-20T08:59:59Z")
	not clock.is_within("09:00", "17:00", ["monday"], "Z") with input as at("2026-11-20T10:00:00Z")
	not clock.is_within("09:00", "17:00", ["friday"], "Z") with input as {}
}

test_only_times_are_times if {
	clock.minutes("00:00") == 0
	clock.minutes("23:59") == 1439
	every text in ["24:00", "9:00", "09:60", "09", "", "09:00:00", "-1:00"] {
		not clock.minutes(text)
	}
	not clock.offset_minutes("Europe/Berlin")
	not clock.offset_minutes("")
}

# --- fields ---

test_fields_are_found_however_they_are_spelt if {
	value := {"a": [{"Pass_Word": 1}], "is-Admin": {"b": 1}}
	fields.found(value, ["password", "isAdmin", "c"]) == {"password", "isAdmin"}
	fields.found({"list": ["password"]}, ["password"]) == set()
	fields.found({"pass\u200bword": 1}, ["password"]) == {"password"}
	fields.found({"pass": 1, "word": [{"_": 2}]}, ["password", "passw", "ord"]) == set()
}

# --- access ---

test_a_read_is_what_nobody_calls_a_write if {
	tools := {"a": {"access": "read"}, "b": {"access": "write"}}
	access.is_read("a") with data.tools as tools with data.write_tools as []
	not access.is_read("a") with data.tools as tools with data.write_tools as ["a"]
	not access.is_read("b") with data.tools as tools with data.read_only_tools as ["b"]
	not access.is_read("c") with data.tools as tools
	not access.is_read("a") with data.tools as tools with input as {"tool": {"name": "a", "access": "write"}}
}

# --- options ---

test_options_are_of_their_shape_or_in_trouble if {
	shape := {"tools": "names", "fields": "names!", "then": "action"}
	opt.troubles({"fields": ["a"], "then": "DENY"}, shape) == set()
	count(opt.troubles({"fields": ["a"], "them": "DENY"}, shape)) == 1
	every bad in [null, false, true, [], "x", {}, {"fields": []}, {"fields": "a"}, {"fields": [1]}, {"fields": ["a"], "then": "ALLOW"}] {
		count(opt.troubles(bad, shape)) > 0
	}
}

# --- parsed ---

rules := {"q": {"query": "sql:postgres", "also": "shell"}}

test_what_is_not_parsed_or_not_understood_is_trouble if {
	call := {"tool_name": "q", "parsed": {"query": [{"kind": "sql", "error": "not SQL"}]}}
	parsed.troubles({"sql"}, {}) == {"sql is not understood: not SQL"} with input as call with data.parse as rules
	parsed.troubles({"sql"}, {}) == {"the arguments were not parsed"} with input as {"tool_name": "q"}
		with data.parse as rules
	count(parsed.troubles({"sql"}, {"tools": ["q"]})) == 1 with input as {"tool_name": "q", "parsed": {}}
		with data.parse as rules
	parsed.troubles({"sql"}, {}) == set() with input as {"tool_name": "other"} with data.parse as rules
}

test_readings_are_of_the_kinds_that_are_asked_for if {
	call := {"tool_name": "q", "parsed": {"query": [{"kind": "sql"}], "also": [{"kind": "shell"}]}}
	parsed.understood({"shell"}) == [{"kind": "shell"}] with input as call with data.parse as rules
}

test_a_reading_of_no_known_form_is_trouble if {
	every reading in [{}, {"kind": "sql"}, {"kind": "sql", "statements": []}, {"kind": "shell", "commands": [1]}] {
		call := {"tool_name": "q", "parsed": {"query": [reading]}}
		count(parsed.troubles({"sql"}, {})) > 0 with input as call with data.parse as rules
	}
}

# --- sql ---

reading := {"statements": [{"kinds": ["select"], "reads": ["s.Users"], "writes": ["t"], "unknown_functions": ["f"]}]}

test_tables_are_listed_as_they_are_written_and_denied_in_any_way if {
	sql.not_listed(reading, ["s.Users", "t"]) == set()
	sql.not_listed(reading, ["users", "t"]) == {"s.Users"}
	sql.denied(reading, ["users"]) == {"s.Users"}
	sql.denied(reading, ["x.users", "other"]) == {"s.Users"}
	sql.is_plain_read(reading)
}

# --- shell ---

command(name, argv) := {"name": name, "argv": argv, "assignments": []}

test_readers_with_an_acting_argument_act if {
	every line in [
		["find", [".", "-delete"]], ["sort", ["-no", "f"]], ["sort", ["--comp=sh"]], ["sort", ["--output=f"]],
		["rg", ["--pre", "sh"]], ["find", [null]], ["uniq", ["a", "b"]], ["curl", ["-so", "f"]],
	] {
		shell.is_acting(command(line[0], line[1]))
	}
	every line in [["find", [".", "-name", "x"]], ["sort", ["-n", "f"]], ["ls", ["-o"]], ["uniq", ["-c", "a"]]] {
		not shell.is_acting(command(line[0], line[1]))
	}
}

test_paths_to_commands_are_not_their_names if {
	shell.not_listed({"commands": [command("/tmp/ls", []), command("ls", [])]}, ["ls"]) == {"/tmp/ls"}
	count(shell.not_listed({"commands": [command(null, [])]}, ["ls"])) == 1
}

# --- paths and domains ---

test_paths_are_below_whole_names if {
	paths.is_below("/a/b", "/a")
	paths.is_below("/a", "/a")
	paths.is_below("/x", "/")
	paths.is_below("/a/b", "/a/")
	not paths.is_below("/ab", "/a")
	not paths.is_below("/", "/a")
	every bad in ["a", "/a/../b", "/a//b", "/./a", ""] {
		not paths.is_root(bad)
	}
}

test_domains_are_whole_names_or_below_one if {
	domains.is_listed("example.com", ["example.com"])
	domains.is_listed("a.b.example.com", ["*.example.com"])
	every host in ["example.com.evil.com", "evilexample.com", "a.example.com", "example.co", "com", ""] {
		not domains.is_listed(host, ["example.com"])
	}
	not domains.is_listed("example.com", ["*.example.com"])
	not domains.is_listed("evilexample.com", ["*.example.com"])
	not domains.is_name("*")
	not domains.is_name("a.*.b")
	not domains.is_name("Example.com")
	domains.is_name("*.example.com")
	domains.is_name("::1")
}
