-- One call asks to be let in: is anything over it killed, is its limit used up? If not, count and register it.
--
-- KEYS  1 kills: hash, '#' = kill position, every other field = a dead scope -> the id of the kill on it
--       2 flight: hash, trace id -> who and what, for display
--       3 rate: sorted set, trace id -> µs; only given when the call has a limit
-- ARGV  1 the position that the caller has seen, 2 trace id, 3 flight entry, 4 limit, 5 window in µs,
--       6… flags, widest first
-- Answers {code, position, kill id, used, reset µs}; code 0 admitted, 1 killed, 2 limited, 3 position missing or
-- older.
--
-- Nothing is written before the answer is known, and the first write is one that Redis refuses when memory is full:
-- so a script is either carried out whole or not at all.

local state = redis.call('HMGET', KEYS[1], '#', unpack(ARGV, 6))
local position = tonumber(state[1])
if not position or position < tonumber(ARGV[1]) then
  return {3, position or false, false, 0, 0}
end
for i = 2, #state do
  if state[i] then
    return {1, position, state[i], 0, 0}
  end
end

local used, reset = 0, 0
if KEYS[3] then
  local limit, window = tonumber(ARGV[4]), tonumber(ARGV[5])
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  -- A call made exactly one window ago has left it. A clock that is set back keeps calls in the window for longer:
  -- that refuses too many, and never lets in too many.
  local since = string.format('(%.0f', now - window)
  used = redis.call('ZCOUNT', KEYS[3], since, '+inf')
  if used >= limit then
    local oldest = redis.call('ZRANGEBYSCORE', KEYS[3], since, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    return {2, position, false, used, tonumber(oldest[2] or now) + window}
  end
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now - window))
  redis.call('PEXPIRE', KEYS[3], math.ceil(window / 1000) + 1000)
  used = used + 1
  reset = tonumber(redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]) + window
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return {0, position, false, used, reset}
