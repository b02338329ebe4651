-- Add events of history to one state: those it does not hold yet, by id. Existing records keep their place and known time.
-- KEYS[1]: state. ARGV: records, width of one, expiry in s. Returns how many were added.
local records, width, expiry = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local state = redis.call('GET', KEYS[1])
local added = #records / width
if not state then
  redis.call('SET', KEYS[1], string.char(0, 0, 0, 0, 0, 0, 0, 128) .. records)
else
  local ids = {}
  for at = 9, #state, width do
    ids[string.sub(state, at + 16, at + 23)] = true
  end
  local new = {}
  for at = 1, #records, width do
    if not ids[string.sub(records, at + 16, at + 23)] then
      new[#new + 1] = string.sub(records, at, at + width - 1)
    end
  end
  added = #new
  if added > 0 then
    redis.call('APPEND', KEYS[1], table.concat(new))
  end
end
redis.call('EXPIRE', KEYS[1], expiry)
return added
