# Hosts that are listed, and no others.
#
#   "parse": {"fetch": {"url": "url"}}
#   "domain_allow": {"tools": ["fetch"], "domains": ["example.com", "*.example.com"], "schemes": ["https"]}
#
# `example.com` is itself alone, `*.example.com` all below it. Ports are those of the schemes unless `ports` lists
# others. Users in URLs are denied.
package agentgate.packs.domain_allow

import data.agentgate.lib.domains
import data.agentgate.lib.options as opt
import data.agentgate.lib.parsed

options := data.packs.domain_allow

shape := {"tools": "names", "domains": "names!", "schemes": "names", "ports": "numbers", "then": "action"}

troubles := (opt.troubles(options, shape) | names) | parsed.idle({"url", "domain"}, options)

names := {sentence |
	count(opt.troubles(options, shape)) == 0
	some name in options.domains
	not domains.is_name(name)
	sentence := "a name in domains is not a host name in lower case, with *. in front or not"
}

findings contains {"action": "DENY", "reason": trouble} if some trouble in troubles

findings contains {"action": "DENY", "reason": trouble} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some trouble in parsed.troubles({"url", "domain"}, options)
}

findings contains {"action": opt.action(options, "DENY"), "reason": concat("", ["Host: ", objection])} if {
	count(troubles) == 0
	opt.covers_tool(options)
	some reading in parsed.understood({"url", "domain"})
	some objection in objections(reading)
}

objections(reading) := ((listed | schemes) | ports) | users if {
	listed := {concat("", [reading.host, " is not listed"]) | not domains.is_listed(reading.host, options.domains)}
	schemes := {concat("", ["the scheme ", reading.scheme, " is not allowed"]) |
		not reading.kind == "domain"
		not reading.scheme in object.get(options, "schemes", ["https"])
	}
	ports := {"the port is not allowed" |
		not reading.kind == "domain"
		not is_open(reading)
	}
	users := {"a user in the URL" |
		not reading.kind == "domain"
		not reading.userinfo == false
	}
}

usual := {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}

is_open(reading) if {
	not opt.has(options, "ports")
	reading.port == usual[reading.scheme]
}

is_open(reading) if reading.port in options.ports
