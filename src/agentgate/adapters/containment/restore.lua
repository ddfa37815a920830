-- Put into a budget what the log says was used, if it is still not known under the epoch that the count was made for.
--
-- KEYS  1 the budget (fields: see _Ledger in _ledgers.py)
-- ARGV  1 the server's run id, 2 epoch, 3 life in ms, 4 the index through which the log was counted, 5… fields and
--       their values in turn
-- Answers 1 if it was put there.

local found = redis.call('HMGET', KEYS[1], 'run', 'epoch', 'through', 'period')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or found[3] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'run', ARGV[1], 'epoch', ARGV[2], 'period', found[4], 'through', ARGV[4])
for start = 5, #ARGV, 4000 do -- in pieces: Lua's stack holds fewer than 8,000 arguments
  redis.call('HSET', KEYS[1], unpack(ARGV, start, math.min(start + 3999, #ARGV)))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
