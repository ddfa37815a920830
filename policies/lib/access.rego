# Which tools read and which do more: a read is what somebody calls one and nobody calls a write.
package agentgate.lib.access

is_read(name) if {
	says_read(name)
	not says_write(name)
}

is_read_call if is_read(input.tool_name)

says_read(name) if name in data.read_only_tools

says_read(name) if data.tools[name].access == "read"

says_write(name) if name in data.write_tools

says_write(name) if data.tools[name].access == "write"

says_write(name) if {
	input.tool.access == "write"
	input.tool.name == name
}

# All that is not a read, of what the lists and the registry know.
not_reads contains name if {
	some name in data.all_known_tools
	not is_read(name)
}

not_reads contains name if {
	some name, _ in data.tools
	not is_read(name)
}
