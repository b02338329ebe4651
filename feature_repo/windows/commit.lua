-- Put a compacted state in the place of the one that was read, unless it was compacted meanwhile. What was appended stays.
-- KEYS[1]: state. ARGV: generation and length of what was read; the new head, nodes and tail; expiry in s; how many
-- parts are new, then name and content of each; how many parts go, then their names; for each index of distinct values, if there
-- are any: event time from which on it tells, how many entries are new, then time and value of each.
-- Returns 1, or 0 if nothing was done.
local key, length, expiry = KEYS[1], tonumber(ARGV[2]), ARGV[4]
local start = redis.call('GETRANGE', key, 0, 31)
if #start < 32 then
  return 0
end
local _, generation, size, _, _, indices = struct.unpack('<i8I4I4i8I2I2', start)
if generation ~= tonumber(ARGV[1]) or redis.call('STRLEN', key) < length then
  return 0
end
local appended = redis.call('GETRANGE', key, length, -1)
redis.call('SET', key, ARGV[3] .. appended, 'KEEPTTL')
local parts, at = key .. ':c', 6
local function each(count, width, command, ...)
  local last = at + count * width - 1
  while at <= last do
    local stop = math.min(at + 999, last)
    local call = {command, ...}
    for i = at, stop do
      call[#call + 1] = ARGV[i]
    end
    redis.call(unpack(call))
    at = stop + 1
  end
end
local added = tonumber(ARGV[5])
local first = size == 32 and added > 0
if first then
  -- What stands there is of a state that has expired.
  redis.call('UNLINK', parts)
end
each(added, 2, 'HSET', parts)
local gone = tonumber(ARGV[at])
at = at + 1
each(gone, 1, 'HDEL', parts)
-- They must not go before the state does.
redis.call('EXPIRE', parts, expiry)
local index = 0
while at <= #ARGV do
  local name, oldest, count = key .. ':d' .. index, ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  if first or indices == 0 then
    redis.call('UNLINK', name)
  end
  each(count, 2, 'ZADD', name, 'GT')
  redis.call('ZREMRANGEBYSCORE', name, '-inf', '(' .. oldest)
  redis.call('EXPIRE', name, expiry)
  index = index + 1
end
return 1
