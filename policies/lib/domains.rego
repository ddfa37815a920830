# Whether a host, as the gateway's parser has read it, is on a list. `example.com` stands for itself alone,
# `*.example.com` for all below it; nothing is matched in the middle of a label.
package agentgate.lib.domains

is_listed(host, listed) if {
	some one in listed
	matches(host, one)
}

matches(host, one) if host == trim_suffix(lower(one), ".")

matches(host, one) if {
	startswith(one, "*.")
	suffix := trim_suffix(lower(substring(one, 1, -1)), ".")
	endswith(host, suffix)
	count(host) > count(suffix)
}

# What a list may hold: names in lower case and ASCII, international ones as `xn--`, and addresses.
is_name(text) if regex.match(`^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`, text)

is_name(text) if regex.match(`^[0-9a-f:.]+$`, text)
