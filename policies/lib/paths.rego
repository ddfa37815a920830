# Whether a path, as the gateway's parser has read it, lies below a root. Links are not followed: what a name leads
# to, only the machine that opens it knows.
package agentgate.lib.paths

is_below(path, root) if path == root

is_below(_, root) if root == "/"

is_below(path, root) if startswith(path, concat("", [trim_suffix(root, "/"), "/"]))

is_below_any(path, roots) if {
	some root in roots
	is_below(path, root)
}

# A root in a list: absolute, and as it is after normalisation.
is_root(text) if {
	startswith(text, "/")
	not contains(text, "//")
	not regex.match(`(^|/)\.{1,2}(/|$)`, text)
}
