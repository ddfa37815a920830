-- One call of `echo` over MCP: in the sessions given after `--`, in turn (2025-11-25), or, given none, in no session (2026-07-28).
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
local sessions = {}
local meta = '{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},'
  .. '"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}'
local body = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":"tea at four"}%s}}'
init = function(args)
  for i = 1, #args do sessions[i] = args[i] end
  wrk.headers["MCP-Protocol-Version"] = #sessions == 0 and "2026-07-28" or "2025-11-25"
  if #sessions == 0 then
    wrk.headers["Mcp-Method"] = "tools/call"
    wrk.headers["Mcp-Name"] = "echo"
  end
end
local n = 0
request = function()
  n = n + 1
  if #sessions == 0 then return wrk.format(nil, nil, nil, string.format(body, n, ',"_meta":' .. meta)) end
  wrk.headers["Mcp-Session-Id"] = sessions[n % #sessions + 1]
  return wrk.format(nil, nil, nil, string.format(body, n, ""))
end
local bad = 0
response = function(status, _, answer)
  if status ~= 200 or not string.find(answer, '"tea at four"', 1, true) or string.find(answer, '"isError":true', 1, true) then
    bad = bad + 1
  end
  wrk.thread:set("bad", bad)
end
local threads = {}
setup = function(thread) table.insert(threads, thread) end
done = function(summary, latency)
  local bad_total = 0
  for _, thread in ipairs(threads) do bad_total = bad_total + (thread:get("bad") or 0) end
  io.write(string.format('RESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"bad":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), bad_total,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
