-- One call of one shard: gives permits back, renews the held ones, takes new ones.
--
-- KEYS[1]  sorted set of permit ids; the score is the end of the lease, in ms of this server's clock
-- KEYS[2]  when the token bucket of the rate cap is full again, in us of this server's clock
-- ARGV     1 capacity, 2 lease in ms, 3 latest time to act in ms of this server's clock, 4 rate per second (0: none),
--          5 ids to release, 6 ids to renew, 7 ids to acquire (numbers), then the ids in that order
-- Reply    { granted (the first so many of the ids to acquire), size of the set, now in ms,
--            released, re-inserted (renewed ids that were gone), why not all were granted }

local NOT_REFUSED, FULL, RATE, STALE, OOM = 0, 1, 2, 3, 4
local CHUNK = 1000 -- unpack() of 2 * CHUNK values has to stay below Lua's C stack limit of 8000

local set, rate_key = KEYS[1], KEYS[2]
local capacity, lease_ms, act_until_ms, rate = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local n_release, n_renew, n_acquire = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local first_release = 8
local first_renew = first_release + n_release
local first_acquire = first_renew + n_renew

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local lease_end = string.format('%.0f', now_ms + lease_ms)

local function remove(first, count)
  local removed = 0
  for from = first, first + count - 1, CHUNK do
    local to = math.min(from + CHUNK, first + count) - 1
    removed = removed + redis.call('ZREM', set, unpack(ARGV, from, to))
  end
  return removed
end

local function insert(first, count)
  local added = 0
  for from = first, first + count - 1, CHUNK do
    local pairs_flat = {}
    for i = from, math.min(from + CHUNK, first + count) - 1 do
      pairs_flat[#pairs_flat + 1] = lease_end
      pairs_flat[#pairs_flat + 1] = ARGV[i]
    end
    added = added + redis.call('ZADD', set, unpack(pairs_flat))
  end
  return added
end

-- Tokens left in the bucket, which holds one second's worth. A clock that was set back must not close it for long.
local function tokens()
  local full_at = tonumber(redis.call('GET', rate_key) or 0)
  full_at = math.max(now_us, math.min(full_at, now_us + 1000000))
  return math.floor((now_us + 1000000 - full_at) * rate / 1000000 + 0.000001), full_at
end

local why = NOT_REFUSED

-- May this server write? This command changes nothing (XX: update only), but is refused on a replica, when the disk
-- fails, and without memory. Once a script has written, Redis no longer refuses it, so this has to come first.
local probe = redis.pcall('ZADD', set, 'XX', 0, '')
if type(probe) == 'table' and probe.err then
  if not string.find(probe.err, 'OOM', 1, true) then return probe end
  why = OOM -- giving back still works, and frees memory
elseif now_ms > act_until_ms then
  why = STALE -- the caller gave up on this call: what it took or renewed now, nobody would give back
end

redis.call('ZREMRANGEBYSCORE', set, '-inf', now_ms)
local released = remove(first_release, n_release)
local reinserted = 0
if why ~= STALE then reinserted = insert(first_renew, n_renew) end

local size = redis.call('ZCARD', set)
local granted = 0
if why == NOT_REFUSED then
  granted = n_acquire
  local free = math.max(0, capacity - size)
  if granted > free then granted, why = free, FULL end
  if rate > 0 and granted > 0 then
    local left, full_at = tokens()
    if granted > left then granted, why = left, RATE end
    if granted > 0 then
      redis.call('SET', rate_key, string.format('%.0f', full_at + granted * 1000000 / rate), 'PX', 2000)
    end
  end
  insert(first_acquire, granted)
end

return { granted, size + granted, now_ms, released, reinserted, why }
