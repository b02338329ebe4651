-- Append events to the state of every view that counts them, all at once.
-- KEYS: states. ARGV: constants of each view, packed: how long events are kept (us), how long a state must live (s) and what it
-- is given (s), bytes of a tail worth sealing, bytes of a tail left as it is, late events worth compacting; then for each run of
-- events that go to the same views: what they have in common, packed: 1 if they became known now (by this server's clock: records
-- lack it), how many records each has, how many events there are, then for each state that one goes to the number of its view and
-- of the record that it gets; then the records of each event. The states that it goes to are the next of KEYS.
-- Returns this server's clock in microseconds as text if an event was known by it, else '' (a Lua number would be cut to 64-bit
-- float precision on the way), then the number of each key whose state had better be compacted. See records.py and head.py.
local call, unpack_bytes, byte, ARGV, KEYS = redis.call, struct.unpack, string.byte, ARGV, KEYS
local function time_of(records, at)
  local low, high = unpack_bytes('<I4I3', records, at)
  high = high % 4194304
  if high >= 2097152 then
    high = high - 4194304
  end
  return high * 4294967296 + low
end
local function stamped(record, now)
  local seventh, late = byte(record, 7), now - time_of(record, 1)
  if seventh >= 192 then
    return record .. struct.pack('<i7', late)
  elseif late == 0 then
    return record
  end
  local flag, stamp = 128, '<i7'
  if late >= -8388608 and late < 8388608 then
    flag, stamp = 64, '<i3'
  end
  return string.sub(record, 1, 6) .. string.char(seventh + flag) .. string.sub(record, 8) .. struct.pack(stamp, late)
end
-- Bytes from which a state keeps the room that the server added: to copy it at every event would cost too much.
local large = 65536
local function failed(answer)
  return type(answer) == 'table' and answer.err
end
local new_head = struct.pack('<i8I4I4i8I2I2I4', -2^63, 0, 32, -2^63, 0, 0, 0)
local keep, expiry, lifetime, room, quiet, most_late = {}, {}, {}, {}, {}, {}
-- How long each state has left to live (ms) that has grown.
local grown = {}
for v = 1, #ARGV[1] / 36 do
  local life
  keep[v], expiry[v], life, room[v], quiet[v], most_late[v] = unpack_bytes('<i8i8i8I4I4I4', ARGV[1], 36 * v - 35)
  lifetime[v] = string.format('%.0f', life)
end
local now, answer, at, last, k = nil, {''}, 2, #ARGV, 0
while at <= last do
  local run = ARGV[at]
  local clock, slots, events = unpack_bytes('<BI2I4', run)
  local of_view, of_record, states = {}, {}, 0
  for j = 8, #run, 4 do
    states = states + 1
    of_view[states], of_record[states] = unpack_bytes('<I2I2', run, j)
    of_view[states] = of_view[states] + 1
  end
  if clock == 1 and not now then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
    answer[1] = string.format('%.0f', now)
  end
  at = at + 1
  for _ = 1, events do
    if clock == 1 then
      for i = at, at + slots - 1 do
        ARGV[i] = stamped(ARGV[i], now)
      end
    end
    for j = 1, states do
      k = k + 1
      local key, v, record, indices = KEYS[k], of_view[j], ARGV[at + of_record[j]], -1
      local length = call('APPEND', key, record)
      if length == #record then
        call('SET', key, new_head .. record, 'EX', lifetime[v])
      else
        if length >= 32 + quiet[v] then
          local start = call('GETRANGE', key, 0, 38)
          local _, _, size, sealed, late, distinct, compact_at = unpack_bytes('<i8I4I4i8I2I2I4', start)
          local time, worth = time_of(record, 1), false
          if time <= sealed then
            late = math.min(late + 1, 65535)
            call('SETRANGE', key, 24, struct.pack('<I2', late))
            worth = late >= most_late[v]
          end
          if size > 32 then
            indices = distinct
          end
          if not worth and length >= compact_at then
            worth = length - size >= room[v] or (size == 32 and time_of(start, 33) < time - keep[v])
          end
          if worth then
            answer[#answer + 1] = k
          end
        end
        -- To look is cheaper than to write: the log of the server takes writes down.
        local left = call('PTTL', key)
        if left < expiry[v] * 1000 then
          left = lifetime[v] * 1000
          call('EXPIRE', key, lifetime[v])
          if indices >= 0 then
            call('EXPIRE', key .. ':c', lifetime[v])
          end
          for z = 0, indices - 1 do
            call('EXPIRE', key .. ':d' .. z, lifetime[v])
          end
        end
        grown[key] = length < large and left or nil
      end
    end
    at = at + slots
  end
end
-- An append gives a full string twice its room. A bitwise OR of a string with nothing is the same string in just the room that it
-- takes. That is not for the log, nor for replicas: what is held, and for how long, stays as it is. A user who may not do it goes
-- without, but no state is left without its expiry.
redis.set_repl(redis.REPL_NONE)
for key, left in pairs(grown) do
  if not failed(redis.pcall('BITOP', 'OR', key, key)) and failed(redis.pcall('PEXPIRE', key, left)) then
    call('EXPIRE', key, math.ceil(left / 1000))
  end
end
redis.set_repl(redis.REPL_ALL)
if #answer == 1 then
  return answer[1]
end
return answer
