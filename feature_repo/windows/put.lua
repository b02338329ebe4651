-- Puts a row of a plain view in the place of the one that was read, unless that has changed since.
-- KEYS[1] the entity's hash. ARGV: field of the time, its value as read ('' if none), field of the creation, its value as
-- read, seconds until the key expires (0: never), then fields and values. Answers 1 if the row was put, else 0.
local held = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[3])
if (held[1] or '') ~= ARGV[2] or (held[2] or '') ~= ARGV[4] then
    return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
if ARGV[5] ~= '0' then
    redis.call('EXPIRE', KEYS[1], ARGV[5])
end
return 1
