# Labels of data, as the gateway derives them: of tools and servers, of results, of the session as a whole.
package agentgate.lib.labels

import data.agentgate.lib.session

of_tool contains label if some label in input.tool.labels

# What the session has touched, and what this call would touch.
with_call := session.labels | of_tool

any_of(found, wanted) if {
	some label in wanted
	label in found
}
