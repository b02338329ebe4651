-- Append one event to the state of every view that counts it, all at once.
-- KEYS: states. ARGV: known time ('' = this server's clock), then for each key: record, event time, horizon and expiry in s.
-- Returns the event's known time in microseconds as text (a Lua number would be cut to 64-bit float precision on the way).
local known = ARGV[1]
if known == '' then
  local now = redis.call('TIME')
  known = string.format('%.0f', now[1] * 1000000 + now[2])
end
local stamp = struct.pack('<i8', tonumber(known))
for i, key in ipairs(KEYS) do
  local record, time, horizon, expiry = unpack(ARGV, 4 * i - 2, 4 * i + 1)
  local width = #record
  local length = redis.call('STRLEN', key)
  if length == 0 then
    redis.call('SET', key, string.char(0, 0, 0, 0, 0, 0, 0, 128))
    length = 8
  end
  redis.call('APPEND', key, string.sub(record, 1, 8) .. stamp .. string.sub(record, 17))
  -- Drop what no window can reach any more, once that is about half of the state: amortised constant work an event.
  local count = (length - 8) / width
  local oldest = tonumber(time) - tonumber(horizon)
  if count >= 64 then
    local middle = 8 + math.floor(count / 2) * width
    if struct.unpack('<i8', redis.call('GETRANGE', key, middle, middle + 7)) < oldest then
      local all = redis.call('GET', key)
      local dropped = struct.unpack('<i8', all)
      local kept = {}
      for at = 9, #all, width do
        local when = struct.unpack('<i8', all, at)
        if when >= oldest then
          kept[#kept + 1] = string.sub(all, at, at + width - 1)
        elseif when > dropped then
          dropped = when
        end
      end
      redis.call('SET', key, struct.pack('<i8', dropped) .. table.concat(kept))
    end
  end
  redis.call('EXPIRE', key, expiry)
end
return known
