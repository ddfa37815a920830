-- One call asks to be let in: is anything over it killed, is a limit or a budget used up? If not, count and register it.
--
-- KEYS  1 kills: hash, '#' = kill position, every other field = a dead scope -> the id of the kill on it
--       2 flight: hash, trace id -> who and what, for display
--       then, where there is a quota: a sorted set for each limit (trace id -> µs), a hash for each budget (see _Ledger
--       in _ledgers.py for its fields; a session's first); where there are budgets at last a hash that says since when
--       this server has kept what was used: with that a term begins
-- ARGV  1 the position that the caller has seen, 2 trace id, 3 flight entry, 4 number of flags, flags, widest first;
--       where there is a quota: number of limits, limit and window in µs of each; where there are budgets: the server's
--       run id, 1 if the session's facts are wanted, bytes, micros, µs to wait after a loss; for each budget: period in µs (0 a session), life in ms, the limits of calls,
--       bytes and micros, the thresholds of them (-1 none)
-- Answers {code, position, kill id, used, reset µs, …}; code 0 admitted, 1 killed, 2 limited, 3 position missing or
-- older, 4 budget spent, 5 budget not known, 6 nor may the log be counted yet. With a quota, after those: 0 which limit is the tightest, and with budgets
-- {which of them alerts, by what, used, µs at which it ends}, facts; 2 which limit; 4 {which budget, by what, used, µs};
-- 5 {which budget, number of its period, epoch, …}.
--
-- Nothing is written before the answer is known, and the first write is one that Redis refuses when memory is full:
-- so a script is either carried out whole or not at all.

local n_flags = tonumber(ARGV[4])
local state = redis.call('HMGET', KEYS[1], '#', unpack(ARGV, 5, 4 + n_flags))
local position = tonumber(state[1])
if not position or position < tonumber(ARGV[1]) then
  return {3, position or false, false, 0, 0}
end
for i = 2, #state do
  if state[i] then
    return {1, position, state[i], 0, 0}
  end
end

local at = 5 + n_flags
if not ARGV[at] then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  return {0, position, false, 0, 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Limits. A call made exactly one window ago has left it. A clock that is set back keeps calls in the window for longer:
-- that refuses too many, and never lets in too many.
local n_limits = tonumber(ARGV[at])
local used, reset, which, left = 0, 0, 0, nil
for i = 1, n_limits do
  local limit, window = tonumber(ARGV[at + 2 * i - 1]), tonumber(ARGV[at + 2 * i])
  local since = string.format('(%.0f', now - window)
  local inside = redis.call('ZCOUNT', KEYS[2 + i], since, '+inf')
  if inside >= limit then
    local oldest = redis.call('ZRANGEBYSCORE', KEYS[2 + i], since, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    local free = tonumber(oldest[2] or now) + window
    if left ~= 0 or free > reset then -- of several that are used up the one that takes longest
      used, reset, which, left = inside, free, i, 0
    end
  elseif not left or limit - inside < left then
    used, which, left = inside + 1, i, limit - inside
  end
end
if left == 0 then
  return {2, position, false, used, reset, which}
end

-- Budgets.
at = at + 2 * n_limits + 1
local run, wants_facts = ARGV[at], ARGV[at + 1] == '1'
local charge = {1, tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])}
local term, is_lost -- what was counted in another term is counted again
if run then
  local kept = redis.call('HMGET', KEYS[#KEYS], 'run', 'since')
  term = tonumber(kept[2]) and kept[2]
  if kept[1] ~= run or not term or tonumber(term) > now then
    term, is_lost = string.format('%.0f', now), true
  end
end
local ledgers, unknown = {}, {}
for i = 1, #KEYS - 3 - n_limits do -- without budgets there is no key of that
  local key, about = KEYS[2 + n_limits + i], at + 5 + 8 * (i - 1)
  local length = tonumber(ARGV[about])
  local number = length > 0 and math.floor(now / length) or 0
  local found = redis.call('HMGET', key, 'term', 'epoch', 'through', 'period', 'calls', 'bytes', 'cost')
  local since = tonumber(found[4])
  local ledger = {key = key, about = about, period = number}
  if found[1] ~= term or not (found[2] and since) or (not found[3] and since < number) then
    ledger.epoch, ledger.is_new = ARGV[2], true
  elseif not found[3] then
    ledger.epoch, ledger.period = found[2], since
  elseif since < number then
    ledger.rolled, ledger.used = true, {0, 0, 0}
  else -- of a clock that was set back the later period stays
    ledger.period, ledger.used = since, {tonumber(found[5]), tonumber(found[6]), tonumber(found[7])}
  end
  if ledger.epoch then
    unknown[#unknown + 1] = ledger
    ledger.place = i
  end
  ledger.ends = (ledger.period + 1) * length
  ledgers[i] = ledger
end
if #unknown > 0 then
  -- Calls that were let in before a loss must be in the log before that is counted, or have been refused: whoever let
  -- one in records it within this time or not at all.
  if is_lost then
    redis.call('HSET', KEYS[#KEYS], 'run', run, 'since', term)
  end
  if now - tonumber(term) < tonumber(ARGV[at + 4]) then
    return {6, position, false, 0, 0}
  end
  local answer = {}
  for _, ledger in ipairs(unknown) do
    if ledger.is_new then
      redis.call('HSET', ledger.key, 'term', term, 'epoch', ledger.epoch, 'period', string.format('%.0f', ledger.period))
      redis.call('HDEL', ledger.key, 'through')
      -- names of sessions can be made up; those of agents cannot, and counting their day may take long
      redis.call('PEXPIRE', ledger.key, ledger.ends > 0 and 3600000 or 60000)
    end
    answer[#answer + 1] = ledger.place
    answer[#answer + 1] = ledger.period
    answer[#answer + 1] = ledger.epoch
  end
  return {5, position, false, 0, 0, answer}
end
local alert = {}
for i, ledger in ipairs(ledgers) do
  for what = 1, 3 do
    local limit, most = tonumber(ARGV[ledger.about + 1 + what]), tonumber(ARGV[ledger.about + 4 + what])
    local would = ledger.used[what] + charge[what]
    if limit >= 0 and would > limit then
      return {4, position, false, used, reset, {i, what, ledger.used[what], ledger.ends}}
    end
    if most >= 0 and would > most and #alert == 0 then
      alert = {i, what, ledger.used[what], ledger.ends}
    end
  end
end
local facts = {}
if wants_facts then
  facts = redis.call('HGETALL', KEYS[3 + n_limits])
end

-- It is let in.
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
local first = 5 + n_flags
for i = 1, n_limits do
  local window = tonumber(ARGV[first + 2 * i])
  redis.call('ZADD', KEYS[2 + i], string.format('%.0f', now), ARGV[2])
  redis.call('ZREMRANGEBYSCORE', KEYS[2 + i], '-inf', string.format('%.0f', now - window))
  redis.call('PEXPIRE', KEYS[2 + i], math.ceil(window / 1000) + 1000)
  if i == which then
    reset = tonumber(redis.call('ZRANGE', KEYS[2 + i], 0, 0, 'WITHSCORES')[2]) + window
  end
end
for _, ledger in ipairs(ledgers) do
  local period = string.format('%.0f', ledger.period)
  if ledger.rolled then
    redis.call('HSET', ledger.key, 'period', period, 'calls', 0, 'bytes', 0, 'cost', 0)
  end
  redis.call('HINCRBY', ledger.key, 'calls', 1)
  redis.call('HINCRBY', ledger.key, 'bytes', ARGV[at + 2])
  redis.call('HINCRBY', ledger.key, 'cost', ARGV[at + 3])
  redis.call('HSET', ledger.key, 'r/' .. ARGV[2], period)
  redis.call('PEXPIRE', ledger.key, ARGV[ledger.about + 1])
end
if #ledgers == 0 then
  return {0, position, false, used, reset, which}
end
return {0, position, false, used, reset, which, alert, facts}
