-- Put the kills in force at a position into place, unless what is there is as new or newer, and wake all who listen.
-- The only script that writes flags; kill, release, expiry, rehydration and repair are all this. Applying twice is
-- applying once, and nothing ever goes back.
--
-- KEYS  1 kills: hash, '#' = kill position, every other field = a dead scope -> the id of the kill on it
-- ARGV  1 the position, 2 the channel of wake-ups, 3 the position that a change starts from, or '' when this is the
--       whole state, 4 how many flags are set, 5… flag and kill id in turn, then the flags that a change clears
-- Answers the position that is in force afterwards, or nil where there is none. One below ARGV 1 says that the change
-- did not fit: the whole state is needed.
--
-- Redis refuses no write of a script that has written already, and it always takes a deletion: so a kill gets through
-- even when memory is full. PUBLISH is no write, and comes first so that a user who may not publish changes nothing;
-- nobody hears it before the script is over.

local at, to = tonumber(redis.call('HGET', KEYS[1], '#')), tonumber(ARGV[1])
if at and at >= to then
  return at
end
local is_change = ARGV[3] ~= ''
if is_change and at ~= tonumber(ARGV[3]) then
  return at or false
end

-- In pieces: Lua's stack holds fewer than 8,000 arguments.
local function in_pieces(command, first, last)
  for start = first, last, 4000 do
    redis.call(command, KEYS[1], unpack(ARGV, start, math.min(start + 3999, last)))
  end
end

redis.call('PUBLISH', ARGV[2], ARGV[1])
local last = 4 + 2 * tonumber(ARGV[4])
if is_change then
  redis.call('HDEL', KEYS[1], '#')
  in_pieces('HDEL', last + 1, #ARGV)
else
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], '#', ARGV[1])
in_pieces('HSET', 5, last)
return to
