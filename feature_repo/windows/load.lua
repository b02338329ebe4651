-- Add records of history to one state. Of an event that stands twice the record that was known first counts.
-- KEYS[1]: state. ARGV: head of a new state, records, expiry in s, bytes of records worth sealing.
-- Returns 1 if it has to be compacted: there was a state before, and repeated loads would make it grow; or it is large.
local key, expiry = KEYS[1], ARGV[3]
local length = redis.call('APPEND', key, ARGV[2])
local before = length > #ARGV[2]
if before then
  local _, _, size, _, _, indices = struct.unpack('<i8I4I4i8I2I2', redis.call('GETRANGE', key, 0, 27))
  if size > 32 then
    redis.call('EXPIRE', key .. ':c', expiry)
    for z = 0, indices - 1 do
      redis.call('EXPIRE', key .. ':d' .. z, expiry)
    end
  end
else
  redis.call('SET', key, ARGV[1] .. ARGV[2])
end
redis.call('EXPIRE', key, expiry)
return (before or length >= tonumber(ARGV[4])) and 1 or 0
