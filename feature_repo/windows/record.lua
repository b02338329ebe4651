-- Append one event to the state of every view that counts it, all at once.
-- KEYS: states. ARGV: known time ('' = this server's clock: records lack it), then for each key: record, constants of its view,
-- packed: how long events are kept (us), how long a state must live (s) and what it is given (s), bytes of a tail worth sealing,
-- bytes of a tail left as it is, late events worth compacting.
-- Returns the known time in microseconds as text (a Lua number would be cut to 64-bit float precision on the way), then the
-- number of each key whose state had better be compacted. See records.py and head.py for the bytes.
local known, clock = ARGV[1], ARGV[1] == ''
if clock then
  local now = redis.call('TIME')
  known = string.format('%.0f', now[1] * 1000000 + now[2])
end
local function time_of(records, at)
  local low, high = struct.unpack('<I4I3', records, at)
  high = high % 4194304
  if high >= 2097152 then
    high = high - 4194304
  end
  return high * 4294967296 + low
end
local answer = {known}
for i, key in ipairs(KEYS) do
  local record = ARGV[2 * i]
  local keep, expiry, lifetime, room, quiet, most_late = struct.unpack('<i8i8i8I4I4I4', ARGV[2 * i + 1])
  if clock then
    local seventh, late = string.byte(record, 7), tonumber(known) - time_of(record, 1)
    if seventh >= 192 then
      record = record .. struct.pack('<i7', late)
    elseif late ~= 0 then
      local flag, stamp = 128, '<i7'
      if late >= -8388608 and late < 8388608 then
        flag, stamp = 64, '<i3'
      end
      record = string.sub(record, 1, 6) .. string.char(seventh + flag) .. string.sub(record, 8) .. struct.pack(stamp, late)
    end
  end
  local indices = -1
  local length = redis.call('APPEND', key, record)
  if length == #record then
    local head = struct.pack('<i8I4I4i8I2I2I4', -2^63, 0, 32, -2^63, 0, 0, 0)
    redis.call('SET', key, head .. record, 'EX', string.format('%.0f', lifetime))
  else
    if length >= 32 + quiet then
      local start = redis.call('GETRANGE', key, 0, 38)
      local _, _, size, sealed, late, distinct, compact_at = struct.unpack('<i8I4I4i8I2I2I4', start)
      local time, worth = time_of(record, 1), false
      if time <= sealed then
        late = math.min(late + 1, 65535)
        redis.call('SETRANGE', key, 24, struct.pack('<I2', late))
        worth = late >= most_late
      end
      if size > 32 then
        indices = distinct
      end
      if not worth and length >= compact_at then
        worth = length - size >= room or (size == 32 and time_of(start, 33) < time - keep)
      end
      if worth then
        answer[#answer + 1] = i
      end
    end
    -- To look is cheaper than to write: the log of the server takes writes down.
    if redis.call('TTL', key) < expiry then
      lifetime = string.format('%.0f', lifetime)
      redis.call('EXPIRE', key, lifetime)
      if indices >= 0 then
        redis.call('EXPIRE', key .. ':c', lifetime)
      end
      for z = 0, indices - 1 do
        redis.call('EXPIRE', key .. ':d' .. z, lifetime)
      end
    end
  end
end
if #answer == 1 then
  return known
end
return answer
