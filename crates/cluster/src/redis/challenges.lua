-- Challenges of wallets: {prefix}:challenges is a hash from a challenge's hash to
-- "WALLET:EXPIRES", :challenges:order has them in the order in which they were given out,
-- :challenges:of:WALLET those of one wallet. All keys are in one slot.
local base = KEYS[1] .. ':challenges'
local operation, now, hash, wallet = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local order = base .. ':order'

local function known(one)
  local text = redis.call('HGET', base, one)
  if not text then return nil end
  local colon = string.find(text, ':', 1, true)
  return string.sub(text, 1, colon - 1), tonumber(string.sub(text, colon + 1))
end

local function drop(one)
  local owner = known(one)
  redis.call('HDEL', base, one)
  redis.call('ZREM', order, one)
  if owner then redis.call('ZREM', base .. ':of:' .. owner, one) end
end

if operation == 'redeem' then
  local owner, expires = known(hash)
  if not owner or expires <= now then return 0 end
  if owner ~= wallet then return 2 end
  drop(hash)
  return 1
end

local expires, max_open, max_all = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
-- A few at a time: more are given out one by one.
for _, one in ipairs(redis.call('ZRANGE', order, 0, 9)) do
  local owner, ends = known(one)
  if not owner or ends <= now then drop(one) end
end
local number = redis.call('INCR', base .. ':count')
local own = base .. ':of:' .. wallet
redis.call('HSET', base, hash, wallet .. ':' .. expires)
redis.call('ZADD', order, number, hash)
redis.call('ZADD', own, number, hash)
while redis.call('ZCARD', own) > max_open do drop(redis.call('ZPOPMIN', own)[1]) end
while redis.call('ZCARD', order) > max_all do drop(redis.call('ZPOPMIN', order)[1]) end
-- Nothing is left of what nobody asks for any more.
local left = tonumber(expires) - now + 60000
for _, key in ipairs({ base, order, own, base .. ':count' }) do
  if redis.call('PTTL', key) < left then redis.call('PEXPIRE', key, left) end
end
return 1
