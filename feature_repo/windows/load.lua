-- Add records of history to states. Of an event that stands twice the record that was known first counts.
-- KEYS: states. ARGV: expiry in s, bytes of a state worth sealing, then for each key: a new state, its head and records.
-- Returns the number of each key that has to be compacted: there was a state before, and repeated loads would make it grow; or
-- it is large.
local expiry, room, answer = ARGV[1], tonumber(ARGV[2]), {}
for i, key in ipairs(KEYS) do
  local state = ARGV[2 + i]
  local due = #state >= room
  if not redis.call('SET', key, state, 'NX', 'EX', expiry) then
    due = true
    redis.call('APPEND', key, string.sub(state, 33))
    local _, _, size, _, _, indices = struct.unpack('<i8I4I4i8I2I2', redis.call('GETRANGE', key, 0, 27))
    if size > 32 then
      redis.call('EXPIRE', key .. ':c', expiry)
      for z = 0, indices - 1 do
        redis.call('EXPIRE', key .. ':d' .. z, expiry)
      end
    end
    redis.call('EXPIRE', key, expiry)
  end
  if due then
    answer[#answer + 1] = i
  end
end
return answer
