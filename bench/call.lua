-- One governed read of a tool that only echoes (the floors do nothing either), spread over a hundred sessions.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local body = '{"session_id":"bench-%d","tool_name":"rate_limited_tool","arguments":{"query":"SELECT id, name FROM products LIMIT 1"}}'
local n = 0
-- What the caller shows, if anything: a header's name and its value.
init = function(args)
  if args[1] then wrk.headers[args[1]] = args[2] end
end
request = function()
  n = (n + 1) % 100
  return wrk.format(nil, nil, nil, string.format(body, n))
end
local bad = 0
response = function(status, _, answer)
  if status ~= 200 or not string.find(answer, '"success":true', 1, true) then bad = bad + 1 end
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
