-- A running recorder takes up definitions: what it recorded before, it recorded without them.
-- KEYS[1]: the hash. ARGV: (name, newest known time recorded without it) each.
for i = 1, #ARGV, 2 do
  local field = 'missed:' .. ARGV[i]
  local old = redis.call('HGET', KEYS[1], field)
  if not old or tonumber(old) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], field, ARGV[i + 1])
  end
end
return #ARGV
