"""
What runs inside Redis, in Lua: each script is one step that nobody sees half done.

All keys of a cache have one hash tag, so that all of it is in one slot of a cluster; that is
why the scripts may make the names of keys themselves. With T for ``{prefix}:`` they are

=====================  ==========  ===========================================================
T cache                hash        version, fingerprint, dim, seq, tick, removals_from
T e:<identity>         hash        one entry; its fields are `FIELDS`
T v<dim>:<partition>   vector set  the vectors of one partition, by key
T commits              sorted set  members by the number of their put: the order of `scan`
T uses, uses:<space>   sorted set  members by their last put or use: the order of `trim`
T deaths               sorted set  members by the time from which on they are dead
T removals, clearings  sorted set  the last identities, and namespaces, that went
T sizes, counts        hash        by namespace; by name, NUL and namespace
T states, labels       hash, list
=====================  ==========  ===========================================================

A *member* is an identity (32 bytes) and the namespace after it, so that what an entry has left
everywhere can be found although the entry itself was expired by Redis.
"""

from __future__ import annotations

__all__ = [
    "CHANGES",
    "CLAIM",
    "COMMIT",
    "FETCH",
    "FIELDS",
    "LOOK",
    "RELIEVE",
    "REMOVE",
    "SCAN",
    "TRIM",
]

FIELDS = (
    "namespace", "prompt", "kind", "payload", "metadata", "tags",
    "created_at", "expires_at", "dies_at", "vector",
)  # fmt: skip

REMEMBERED_REMOVALS = 10_000
"""Identities; who asks for changes before them is told to forget all."""

KEPT_LABELS = 100_000

_COMMON = """
local T = KEYS[1]:sub(1, -6)
local call = redis.call
local at = 0
local function take() at = at + 1; return ARGV[at] end
local function many() return tonumber(take()) end
local dim = take()
local function vectors(identity) return T .. 'v' .. dim .. ':' .. identity:sub(1, 16) end
local function remember(set, name)
    call('ZADD', T .. set, call('HINCRBY', KEYS[1], 'seq', 1), name)
    local surplus = call('ZCARD', T .. set) - REMEMBERED_REMOVALS
    if surplus > 100 then
        local last = call('ZRANGE', T .. set, surplus - 1, surplus - 1, 'WITHSCORES')
        local from = tonumber(call('HGET', KEYS[1], 'removals_from') or 0)
        call('HSET', KEYS[1], 'removals_from', math.max(from, tonumber(last[2])))
        call('ZREMRANGEBYRANK', T .. set, 0, surplus - 1)
    end
end
local function resize(space, by)
    if call('HINCRBY', T .. 'sizes', space, by) <= 0 then call('HDEL', T .. 'sizes', space) end
end
local function drop(member)
    local identity, space = member:sub(1, 32), member:sub(33)
    call('UNLINK', T .. 'e:' .. identity)
    call('VREM', vectors(identity), identity:sub(17))
    for _, set in ipairs({'uses', 'uses:' .. space, 'deaths'}) do
        call('ZREM', T .. set, member)
    end
    if call('ZREM', T .. 'commits', member) == 1 then resize(space, -1) end
    remember('removals', identity)
end
""".replace("REMEMBERED_REMOVALS", str(REMEMBERED_REMOVALS))
# KEYS[1] is T .. 'cache', ARGV[1] the dimension.

# The first line lets a full server refuse a script before it has begun: a commit is whole or not.
_WRITES = "#!lua\n"
_FREES = "#!lua flags=allow-oom\n"
_READS = "#!lua flags=no-writes\n"

CLAIM = (
    _WRITES
    + """
local version, fingerprint, dim = ARGV[1], ARGV[2], ARGV[3]
local is = redis.call('HMGET', KEYS[1], 'version', 'fingerprint', 'dim')
if is[1] and is[1] ~= version then return {'version', is[1]} end
if is[1] and (is[2] ~= fingerprint or is[3] ~= dim)
        and redis.call('EXISTS', KEYS[1]:sub(1, -6) .. 'commits') == 1 then
    return {'embedder', is[2], is[3]}
end
redis.call('HSET', KEYS[1], 'version', version, 'fingerprint', fingerprint, 'dim', dim)
return {'claimed'}
"""
)
"""ARGV: version, fingerprint, dim. What is in the way: its kind and what it is."""

_APPLY = (
    _COMMON
    + """
local function clear(space)
    local partitions = {}
    while true do
        local members = call('ZRANGE', T .. 'uses:' .. space, 0, 999)
        if #members == 0 then break end
        local names = {}
        for i, member in ipairs(members) do
            names[i] = T .. 'e:' .. member:sub(1, 32)
            partitions[vectors(member)] = true
        end
        call('UNLINK', unpack(names))
        for _, set in ipairs({'commits', 'uses', 'uses:' .. space, 'deaths'}) do
            call('ZREM', T .. set, unpack(members))
        end
    end
    -- A partition is all of one namespace: its set goes as a whole, not vector by vector.
    for name in pairs(partitions) do call('UNLINK', name) end
    call('HDEL', T .. 'sizes', space)
    remember('clearings', space)
end
local function put(identity, space, dead, lifetime, vector, fields)
    local name, member = T .. 'e:' .. identity, identity .. space
    local old = call('HMGET', name, 'namespace', 'vector')
    if old[1] and old[1] ~= space then drop(identity .. old[1]) end
    call('DEL', name)
    if vector ~= '' then
        fields[#fields + 1] = 'vector'
        fields[#fields + 1] = vector
    end
    call('HSET', name, unpack(fields))
    if lifetime ~= '' then call('PEXPIRE', name, lifetime) end
    local tick = call('HINCRBY', KEYS[1], 'tick', 1)
    local is_new = call('ZADD', T .. 'commits', call('HINCRBY', KEYS[1], 'seq', 1), member)
    if is_new == 1 then resize(space, 1) end
    call('ZADD', T .. 'uses', tick, member)
    call('ZADD', T .. 'uses:' .. space, tick, member)
    if dead == '' then
        call('ZREM', T .. 'deaths', member)
    else
        call('ZADD', T .. 'deaths', dead, member)
    end
    call('ZREM', T .. 'removals', identity)
    local set, key = vectors(identity), identity:sub(17)
    if vector == '' then
        call('VREM', set, key)
    elseif call('VISMEMBER', set, key) == 0 or (old[2] and old[2] ~= vector) then
        call('VADD', set, 'FP32', vector, key, 'NOQUANT')
    end
end
local function use(identity)
    local space = call('HGET', T .. 'e:' .. identity, 'namespace')
    if not space then return end
    local tick = call('HINCRBY', KEYS[1], 'tick', 1)
    call('ZADD', T .. 'uses', 'XX', tick, identity .. space)
    call('ZADD', T .. 'uses:' .. space, 'XX', tick, identity .. space)
end

local is, wanted = call('HMGET', KEYS[1], 'version', 'fingerprint', 'dim'), {take(), take(), dim}
if not is[1] then
    -- The server has lost or was told to forget everything.
    call('HSET', KEYS[1], 'version', wanted[1], 'fingerprint', wanted[2], 'dim', wanted[3])
elseif is[2] ~= wanted[2] or is[3] ~= wanted[3] then
    return {'embedder', is[2], is[3]}
end
local before = tonumber(call('HGET', KEYS[1], 'seq') or 0)
for _ = 1, many() do clear(take()) end
for _ = 1, many() do
    local identity = take()
    local space = call('HGET', T .. 'e:' .. identity, 'namespace')
    if space then drop(identity .. space) end
end
for _ = 1, many() do
    local identity, space, dead, lifetime, vector = take(), take(), take(), take(), take()
    local fields = {}
    for i = 1, many() do fields[i] = take() end
    put(identity, space, dead, lifetime, vector, fields)
end
for _ = 1, many() do use(take()) end
for _ = 1, many() do call('HINCRBY', T .. 'counts', take(), take()) end
for _ = 1, many() do call('RPUSH', T .. 'labels', take()) end
call('LTRIM', T .. 'labels', -KEPT_LABELS, -1)
for _ = 1, many() do call('HSET', T .. 'states', take(), take()) end
return {before, tonumber(call('HGET', KEYS[1], 'seq') or 0)}
""".replace("KEPT_LABELS", str(KEPT_LABELS))
)

COMMIT = _WRITES + _APPLY
"""
ARGV: dimension, version, fingerprint; then seven lists, each after its length: namespaces to
clear, identities to remove, entries to put, identities used, counts (name, n), labels, states
(name, data). Gives ``seq`` before and after, or the embedder that has taken the place.
"""

RELIEVE = _FREES + _APPLY
"""As `COMMIT`, for changes that put nothing: a full server must take those."""

TRIM = (
    _FREES
    + _COMMON
    + """
local set, limit, at_once = T .. take(), many(), many()
local surplus = math.min(at_once, call('ZCARD', set) - limit)
if surplus <= 0 then return 0 end
local members = call('ZRANGE', set, 0, surplus - 1)
for _, member in ipairs(members) do drop(member) end
return #members
"""
)
"""ARGV: dimension, the set, how many may stay, how many may go at once. How many went."""

REMOVE = (
    _FREES
    + _COMMON
    + """
local gone = 0
while at < #ARGV do
    local member, seq = take(), take()
    -- One that was put again since is another entry than the one that was chosen.
    if tonumber(call('ZSCORE', T .. 'commits', member) or -1) == tonumber(seq) then
        drop(member)
        gone = gone + 1
    end
end
return gone
"""
)
"""ARGV: dimension, then members, each with the score it had in ``commits``. How many went."""

FETCH = (
    _READS
    + """
local T, found = KEYS[1]:sub(1, -6), {}
local fields = cjson.decode(ARGV[1])
for i = 2, #ARGV do
    found[i - 1] = redis.call('HMGET', T .. 'e:' .. ARGV[i], unpack(fields))
end
return found
"""
)
"""ARGV: the names of fields as JSON, identities. The values of each, all of one moment."""

SCAN = (
    _READS
    + """
return redis.call('ZRANGEBYSCORE', KEYS[1]:sub(1, -6) .. 'commits', '(' .. ARGV[1], '+inf',
    'WITHSCORES', 'LIMIT', 0, ARGV[2])
"""
)
"""ARGV: number of a put, at most how many. Members put after it, each before its number."""

LOOK = (
    _READS
    + """
local T, found = KEYS[1]:sub(1, -6), {}
for i, member in ipairs(redis.call('ZRANGE', T .. ARGV[1], ARGV[2], ARGV[3])) do
    local told = redis.call('HMGET', T .. 'e:' .. member:sub(1, 32), 'tags', 'created_at')
    found[i] = {member, redis.call('ZSCORE', T .. 'commits', member),
        redis.call('ZSCORE', T .. 'deaths', member), told[1], told[2]}
end
return found
"""
)
"""ARGV: a set, from which rank to which. Of each member: number of its put, death, tags, birth."""

CHANGES = (
    _READS
    + """
local T, mark, most = KEYS[1]:sub(1, -6), ARGV[1], ARGV[2]
local found = {redis.call('HMGET', KEYS[1], 'seq', 'removals_from')}
for _, set in ipairs({'commits', 'removals', 'clearings'}) do
    found[#found + 1] = redis.call(
        'ZRANGEBYSCORE', T .. set, '(' .. mark, '+inf', 'LIMIT', 0, most)
end
return found
"""
)
"""ARGV: mark, at most how many. ``seq`` and ``removals_from``; members put; gone; cleared."""
