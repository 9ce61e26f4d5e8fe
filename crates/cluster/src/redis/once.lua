-- Requests under keys, over all nodes: {prefix}:once is a hash from a request's key to "r" while
-- it runs or "d" once it is done, the token of who does it, its fingerprint and its answer;
-- :once:order has the keys by when they began or were done, :once:bytes is what all of them weigh.
-- All keys are in one slot.
local base = KEYS[1] .. ':once'
local order, size = base .. ':order', base .. ':bytes'
local operation, now, key, token = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local kept_for, runs_for = tonumber(ARGV[5]), tonumber(ARGV[6])
local max, max_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])

local function drop(one)
  local length = redis.call('HSTRLEN', base, one)
  redis.call('HDEL', base, one)
  redis.call('ZREM', order, one)
  redis.call('DECRBY', size, length + #one)
end

-- The oldest go when there is too much.
local function put(value)
  redis.call('HSET', base, key, value)
  redis.call('ZADD', order, now, key)
  local bytes = redis.call('INCRBY', size, #value + #key)
  while redis.call('ZCARD', order) > max or tonumber(bytes) > max_bytes do
    local oldest = redis.call('ZRANGE', order, 0, 0)[1]
    if not oldest then break end
    drop(oldest)
    bytes = redis.call('GET', size)
  end
  -- Nothing is left of what nobody asks for any more.
  for _, one in ipairs({ base, order, size }) do redis.call('PEXPIRE', one, kept_for) end
end

local known = redis.call('HGET', base, key)
local is_own = known and string.sub(known, 1, 17) == 'r' .. token

if operation == 'finish' then
  -- It was given up, and is another's; or it is done, and this is said again.
  if known and not is_own then return '' end
  if known then drop(key) end
  if ARGV[10] ~= '' then put('d' .. token .. ARGV[9] .. ARGV[10]) end
  return ''
end

-- A few at a time: more begin one by one.
for _, one in ipairs(redis.call('ZRANGEBYSCORE', order, '-inf', '(' .. (now - kept_for), 'LIMIT', 0, 10)) do
  if one == key then known = false end
  drop(one)
end
if is_own then return '' end
if known then
  local begun = tonumber(redis.call('ZSCORE', order, key)) or now
  local is_given_up = string.sub(known, 1, 1) == 'r' and begun <= now - runs_for
  if not is_given_up or string.sub(known, 18, 81) ~= ARGV[9] then return known end
  drop(key)
end
put('r' .. token .. ARGV[9])
return ''
