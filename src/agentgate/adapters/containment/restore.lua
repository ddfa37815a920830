-- Put into a budget what the log says was used, if it is still not known under the epoch that the count was made for.
--
-- KEYS  1 the budget (fields: see _Ledger in _ledgers.py)
-- ARGV  1 epoch, 2 life in ms, 3 the index through which the log was counted, 4… fields and their values in turn
-- Answers 1 if it was put there. Its term stays: in another one it is not believed.

local found = redis.call('HMGET', KEYS[1], 'term', 'epoch', 'through', 'period')
if not found[1] or found[2] ~= ARGV[1] or found[3] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'term', found[1], 'epoch', ARGV[1], 'period', found[4], 'through', ARGV[3])
for start = 4, #ARGV, 4000 do -- in pieces: Lua's stack holds fewer than 8,000 arguments
  redis.call('HSET', KEYS[1], unpack(ARGV, start, math.min(start + 3999, #ARGV)))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
