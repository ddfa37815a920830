-- Put the kills in force at a position into place, unless what is there is as new or newer. The only script that
-- writes flags; kill, release, expiry, rehydration and repair are all this. Applying twice is applying once.
--
-- KEYS  1 kills: hash, '#' = kill position, every other field = a dead scope -> the id of the kill on it
-- ARGV  1 the position, then flag and kill id in turn
-- Answers the position that is in force afterwards.
--
-- DEL comes first: Redis refuses no write of a script that has written already, so a kill gets through even when
-- memory is full.

local position = tonumber(redis.call('HGET', KEYS[1], '#'))
if position and position >= tonumber(ARGV[1]) then
  return position
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '#', ARGV[1])
-- In pieces: Lua's stack holds fewer than 8,000 arguments.
for first = 2, #ARGV, 4000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 3999, #ARGV)))
end
return tonumber(ARGV[1])
