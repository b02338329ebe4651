-- Renew leases of definitions, say which this recorder follows, and let go of what nobody has renewed.
-- KEYS[1]: the hash. ARGV: lease in us, whether to let go ('1'), recorder ('' for a reader), its lease in us, what it follows,
-- number of sources, then (source, newest known time recorded there) each, then for each claim (name, source, definition,
-- '1' if a model reads it).
-- Returns the hash, flat.
local hash = KEYS[1]
local lease, let_go, recorder, breath, follows, sources = unpack(ARGV, 1, 6)
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function later(field, value)
  local old = redis.call('HGET', hash, field)
  if not old or tonumber(old) < tonumber(value) then
    redis.call('HSET', hash, field, value)
  end
end
local at = 7
for _ = 1, tonumber(sources) do
  later('known:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
local ends = string.format('%.0f', now + lease)
for i = at, #ARGV, 4 do
  local name, source, definition, read = unpack(ARGV, i, i + 3)
  if redis.call('HSETNX', hash, 'spec:' .. name, definition) == 1 then
    -- Whatever was recorded before now was recorded without it.
    local known = redis.call('HGET', hash, 'known:' .. source)
    if known then
      redis.call('HSET', hash, 'missed:' .. name, known)
    end
  end
  redis.call('HSET', hash, 'until:' .. name, ends)
  if read == '1' then
    redis.call('HSET', hash, 'read:' .. name, ends)
  end
end
if recorder ~= '' then
  local until_then = string.format('%.0f', now + breath)
  redis.call('HSET', hash, 'recorder:' .. recorder, until_then .. ' ' .. follows)
end
local all = redis.call('HGETALL', hash)
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  if string.sub(field, 1, 6) == 'until:' and let_go == '1' and tonumber(value) < now then
    local name = string.sub(field, 7)
    redis.call('HDEL', hash, field, 'spec:' .. name, 'missed:' .. name, 'read:' .. name)
  elseif string.sub(field, 1, 9) == 'recorder:' and tonumber(string.match(value, '%d+')) < now then
    redis.call('HDEL', hash, field)
  end
end
return redis.call('HGETALL', hash)
