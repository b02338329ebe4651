-- Add records of history to one state. What it held before stands first, and of an event that stands twice the first counts.
-- KEYS[1]: state. ARGV: head of a new state, records, expiry in s, bytes of records worth sealing.
-- Returns 1 if it has to be compacted: there was a state before, and repeated loads would make it grow; or it is large.
local length = redis.call('APPEND', KEYS[1], ARGV[2])
local before = length > #ARGV[2]
if not before then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return (before or length >= tonumber(ARGV[4])) and 1 or 0
