-- A call has ended: take back what it was charged if it was not allowed, else add what is known only now.
--
-- KEYS  the call's budgets, a session's first (fields: see _Ledger in _ledgers.py)
-- ARGV  1 trace id, 2 index of its ALLOW in the log (-1: it was not allowed), 3 index of its outcome (-1: none yet),
--       4 bytes and 5 micros that it was charged, 6 bytes of its result, 7 micros more, 8 the tool's name if it ended
--       well (else ''); for each budget: period in µs (0 a session), life in ms; then labels
-- Answers nothing that matters.
--
-- A budget that is being counted is forgotten, so that it is counted once more: whoever counts may not have read this.
-- One that does not know the call was counted meanwhile: what the log had through that index is in it already.

local n = #KEYS
local allowed, ended = tonumber(ARGV[2]), tonumber(ARGV[3])
local was_allowed = allowed >= 0
local now = redis.call('TIME')
for i, key in ipairs(KEYS) do
  local found = redis.call('HMGET', key, 'epoch', 'through', 'period', 'calls', 'r/' .. ARGV[1])
  local through, period, reserved = tonumber(found[2]), found[3], found[5]
  if found[1] and not through then
    redis.call('DEL', key)
  elseif found[1] then
    local length = tonumber(ARGV[7 + 2 * i])
    local calls, bytes, cost = 0, 0, 0
    local is_news = was_allowed
    if reserved then
      redis.call('HDEL', key, 'r/' .. ARGV[1])
      if reserved ~= period then
        is_news = false -- it was of the period before
      elseif was_allowed then
        bytes, cost = tonumber(ARGV[6]), tonumber(ARGV[7])
      else
        calls, bytes, cost = -1, -tonumber(ARGV[4]), -tonumber(ARGV[5])
      end
    elseif was_allowed then
      if allowed >= through then
        calls, bytes, cost = 1, tonumber(ARGV[4]), ARGV[5] + ARGV[7]
      end
      is_news = ended < 0 or ended >= through
      if is_news then
        bytes = bytes + ARGV[6]
      end
    end
    redis.call('HINCRBY', key, 'calls', calls)
    redis.call('HINCRBY', key, 'bytes', string.format('%.0f', bytes))
    redis.call('HINCRBY', key, 'cost', string.format('%.0f', cost))
    if length == 0 and is_news then
      if ARGV[8] ~= '' then
        redis.call('HINCRBY', key, 'n/' .. ARGV[8], 1)
        redis.call('HSET', key, 'a/' .. ARGV[8], now[1])
      end
      for label = 9 + 2 * n, #ARGV do
        redis.call('HSET', key, 'l/' .. ARGV[label], 1)
      end
    end
    -- a session that came to nothing is not kept for long: names can be made up
    local is_empty = length == 0 and tonumber(found[4]) + calls <= 0
    redis.call('PEXPIRE', key, is_empty and 60000 or ARGV[8 + 2 * i])
  end
end
return 1
