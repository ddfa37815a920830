# What a session has used, against amounts that a rule names: for warnings of a policy's own. Budgets themselves are
# kept by the gateway (`tiers` in data.json).
package agentgate.lib.budgets

# Whether one of {calls, bytes, cost_micros} has reached its amount. Undefined facts have.
is_past(amounts) if {
	some name, amount in amounts
	not is_below(name, amount)
}

is_below(name, amount) if input.session[name] < amount
