-- The line of kept events that all nodes share, and the sessions of clients that may come
-- back: what line.rs says, as one script. Each call is one operation, and atomic.
--
-- KEYS[1]  the prefix of all keys, with its hash tag
-- ARGV[1]  the operation
-- ARGV[2]  its arguments as JSON
-- ARGV[3]  and so on: what is no text
--
-- <prefix>:line          hash: e epoch, i last number, f where it began, run the server's run
-- <prefix>:line:op:P     the last batch of a process
-- <prefix>:line:on:P     a process is there, or was lately
-- <prefix>:lm:SCOPE      hash: e epoch of the offsets, o last offset, l last number, d and p the
--                        number and offset of the last event that is not kept, b and k bytes
-- <prefix>:ll:SCOPE      list: the newest events
-- <prefix>:lk:SCOPE      hash: key -> the newest event of the key
-- <prefix>:lw:USER       set: processes that have sessions of a user
-- <prefix>:z:TAG         hash: socket -> session, by the tag of the node that named the socket

local call = redis.call
local prefix = KEYS[1]
local arguments = cjson.decode(ARGV[2])
local LINE = prefix .. ':line'
-- Seconds for which a scope's numbers are remembered.
local REMEMBERED = 24 * 3600
local MAX_EVENT, MAX_KEYS = 65536, 1000
local KEYED, GAP, REMOVES = 1, 4, 8

local function text(number)
    return string.format('%.0f', number)
end

local function millis()
    local time = call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local publish = arguments.sharded and 'SPUBLISH' or 'PUBLISH'
local function tell(channel, bytes)
    call(publish, channel, bytes)
end

local function channel_of(process)
    return prefix .. ':c:' .. process
end

-- The line, as it is. Another run of the server may have forgotten its end.
local line = {}
do
    local known = call('HMGET', LINE, 'e', 'i', 'f', 'run')
    local ok, info = pcall(call, 'INFO', 'server')
    local run = ok and type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
    -- So that a test can tell of a restart.
    run = arguments.run or run
    line.epoch, line.last = tonumber(known[1] or 0), tonumber(known[2] or 0)
    line.begin = tonumber(known[3] or 0)
    if known[4] ~= run then
        local time = call('TIME')
        local micros = time[1] * 1000000 + time[2]
        local epoch = math.floor(micros / 1000) % 4294967296
        line.epoch = epoch ~= line.epoch and epoch or (epoch + 1) % 4294967296
        line.last = math.max(line.last, micros, arguments.last or 0) + 1
        line.begin = line.last
        call('HSET', LINE, 'e', text(line.epoch), 'i', text(line.last), 'f', text(line.begin),
            'run', run)
    end
end

local function keep_last()
    call('HSET', LINE, 'i', text(line.last))
end

local function head(kind, numbers)
    local parts = { struct.pack('>BI4', kind, line.epoch) }
    for _, number in ipairs(numbers) do
        parts[#parts + 1] = struct.pack('>I8', number)
    end
    return table.concat(parts)
end

-- Of an event, behind its kind and the line's epoch: its number, the one before it, the epoch
-- of its offset, the offset; then its flags.
local EVENT, FLAGS = 3, 38

local function id_of(event)
    return (struct.unpack('>I8', event, 6))
end

local function scope_of(name)
    local known = call('HMGET', prefix .. ':lm:' .. name, 'e', 'o', 'l', 'd', 'p', 'b', 'k')
    local number = function(index) return tonumber(known[index] or 0) end
    return {
        name = name, epoch = number(1), offset = number(2), last = number(3),
        dropped = number(4), dropped_offset = number(5), bytes = number(6), key_bytes = number(7),
    }
end

local function put_scope(scope)
    local key = prefix .. ':lm:' .. scope.name
    call('HSET', key, 'e', text(scope.epoch), 'o', text(scope.offset), 'l', text(scope.last),
        'd', text(scope.dropped), 'p', text(scope.dropped_offset), 'b', text(scope.bytes),
        'k', text(scope.key_bytes))
    call('EXPIRE', key, REMEMBERED)
end

local function drop_all(scope, id, offset)
    call('DEL', prefix .. ':ll:' .. scope.name)
    scope.bytes, scope.dropped, scope.dropped_offset = 0, id, offset
end

-- Whether the event is kept as the newest of its key.
local function keep_key(scope, key, event)
    local keys = prefix .. ':lk:' .. scope.name
    local before = call('HSTRLEN', keys, key)
    local bytes = scope.key_bytes - before + #event
    if (before == 0 and call('HLEN', keys) >= MAX_KEYS) or bytes > arguments.bytes then
        call('HDEL', keys, key)
        scope.key_bytes = scope.key_bytes - before
        return false
    end
    call('HSET', keys, key, event)
    call('EXPIRE', keys, REMEMBERED)
    scope.key_bytes = bytes
    return true
end

local function keep(scope, event)
    local list = prefix .. ':ll:' .. scope.name
    -- Of a namespace more is kept: it is many rooms.
    local share = string.sub(scope.name, 1, 1) == 'a' and 64 or 1
    -- What has expired was dropped.
    if call('EXISTS', list) == 0 then
        scope.bytes = 0
        if scope.last > 0 then
            scope.dropped, scope.dropped_offset = scope.last, scope.offset - 1
        end
    end
    local count = call('RPUSH', list, event)
    scope.bytes = scope.bytes + #event
    while count > 0 and (count > arguments.events * share or scope.bytes > arguments.bytes * share) do
        local oldest = call('LPOP', list)
        count, scope.bytes = count - 1, scope.bytes - #oldest
        -- A newer one of the key makes it unneeded, or it is there as the newest.
        if string.byte(oldest, FLAGS) % 2 ~= KEYED then
            scope.dropped = id_of(oldest)
            scope.dropped_offset = struct.unpack('>I8', oldest, 30)
        end
    end
    call('PEXPIRE', list, arguments.age)
end

local function say_one(name, channel, flags, key, body)
    local scope = scope_of(name)
    line.last = line.last + 1
    local id = line.last
    if flags == GAP or scope.epoch == 0 then
        scope.epoch = id
    end
    local before = scope.last
    if flags == GAP then
        drop_all(scope, id, scope.offset)
        call('DEL', prefix .. ':lk:' .. name)
        scope.key_bytes = 0
    else
        scope.offset = scope.offset + 1
    end
    local event = head(EVENT, { id, before, scope.epoch, scope.offset }) .. body
    if flags ~= GAP then
        if flags == REMOVES then
            local keys = prefix .. ':lk:' .. name
            scope.key_bytes = scope.key_bytes - call('HSTRLEN', keys, key)
            call('HDEL', keys, key)
        end
        if #event > MAX_EVENT then
            drop_all(scope, id, scope.offset)
            if flags == KEYED then
                call('HDEL', prefix .. ':lk:' .. name, key)
            end
        else
            local kept = event
            if flags == KEYED and not keep_key(scope, key, event) then
                local other = string.char(string.byte(event, FLAGS) - KEYED)
                kept = string.sub(event, 1, FLAGS - 1) .. other .. string.sub(event, FLAGS + 1)
            end
            keep(scope, kept)
        end
    end
    scope.last = id
    put_scope(scope)
    tell(channel, event)
    return scope.offset
end

-- A user's events are for the processes that have sessions of theirs, and are kept for these.
local function say_to_user(name, user, body)
    local processes = call('SMEMBERS', prefix .. ':lw:' .. user)
    if #processes == 0 then
        return 0
    end
    local bytes
    local said = tell
    tell = function(_, event) bytes = event end
    local offset = say_one(name, '', 0, '', body)
    tell = said
    for _, process in ipairs(processes) do
        tell(channel_of(process), bytes)
    end
    return offset
end

local operations = {}

-- { process, number, age, events, bytes }, then of each event its scope, channel, flags, key or
-- user, and body -> { epoch, begin, last, offsets }
function operations.say()
    local done = prefix .. ':line:op:' .. arguments.process
    local offsets = {}
    if tonumber(call('GET', done) or 0) < arguments.number then
        call('SET', done, text(arguments.number), 'EX', 3600)
        for at = 3, #ARGV, 5 do
            local name, channel, flags = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
            local offset
            if string.sub(name, 1, 1) == 'u' then
                offset = say_to_user(name, ARGV[at + 3], ARGV[at + 4])
            else
                offset = say_one(name, channel, flags, ARGV[at + 3], ARGV[at + 4])
            end
            offsets[#offsets + 1] = text(offset)
        end
        keep_last()
    end
    return { text(line.epoch), text(line.begin), text(line.last), offsets }
end

-- { process, request, after, scopes }: the process hears the end of each scope that has
-- something after a number, then how far the line is.
function operations.collect()
    local own = channel_of(arguments.process)
    local after = arguments.after
    for index, name in ipairs(arguments.scopes) do
        local scope = scope_of(name)
        if scope.epoch == 0 and string.sub(name, 1, 1) == 'r' then
            line.last = line.last + 1
            keep_last()
            scope.epoch = line.last
            put_scope(scope)
        end
        if after == 0 or scope.last > after then
            local all = call('LRANGE', prefix .. ':ll:' .. name, 0, -1)
            local dropped, dropped_offset = scope.dropped, scope.dropped_offset
            if scope.last > 0 and (#all == 0 or id_of(all[#all]) < scope.last) then
                dropped, dropped_offset = scope.last, scope.offset
            end
            local parts = { head(4, { arguments.request, index - 1, scope.epoch, scope.offset,
                scope.last, dropped, dropped_offset }) }
            local function add(event)
                if id_of(event) > after then
                    parts[#parts + 1] = struct.pack('>I4', #event)
                    parts[#parts + 1] = event
                end
            end
            for _, event in ipairs(call('HVALS', prefix .. ':lk:' .. name)) do add(event) end
            for _, event in ipairs(all) do add(event) end
            tell(own, table.concat(parts))
        end
    end
    tell(own, head(5, { arguments.request, line.begin, line.last }))
    return 'OK'
end

-- {} -> { epoch, begin, last }
function operations.reach()
    return { text(line.epoch), text(line.begin), text(line.last) }
end

-- A session: the process that has it, when it was lost (0: it was not), how often it was taken
-- up, whose it is, and what the gateway knows of it.
local function session(bytes)
    local size = struct.unpack('>I4', bytes)
    local process, at = string.sub(bytes, 5, 4 + size), 5 + size
    local lost, times, length = struct.unpack('>I8I8I4', bytes, at)
    local from = at + 20
    return {
        process = process, lost = lost, times = times,
        user = string.sub(bytes, from, from + length - 1), record = string.sub(bytes, from + length),
    }
end

local function session_bytes(one)
    return struct.pack('>I4', #one.process) .. one.process
        .. struct.pack('>I8I8I4', one.lost, one.times, #one.user) .. one.user .. one.record
end

-- { process, ttl }, then of each session the tag and the name of its socket, whether it is lost
-- (1), there (0) or gone (-), its user, and what is known of it
function operations.remember()
    for at = 3, #ARGV, 5 do
        local key, name, state = prefix .. ':z:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
        local bytes = call('HGET', key, name)
        local known = bytes and session(bytes)
        if not known or known.process == arguments.process then
            if state == '-' then
                call('HDEL', key, name)
            else
                call('HSET', key, name, session_bytes({
                    process = arguments.process, lost = state == '1' and millis() or 0,
                    times = known and known.times or 0, user = ARGV[at + 3], record = ARGV[at + 4],
                }))
                if call('PTTL', key) < arguments.ttl then
                    call('PEXPIRE', key, arguments.ttl)
                end
            end
        end
    end
    return 'OK'
end

-- { process, users, ttl }: the process has sessions of these users.
function operations.attend()
    for _, user in ipairs(arguments.users) do
        local key = prefix .. ':lw:' .. user
        call('SADD', key, arguments.process)
        call('PEXPIRE', key, arguments.ttl)
    end
    return 'OK'
end

-- { process, tag, name, user, window } -> { 'taken', record, epoch, begin, last, how
-- often it was taken up }, or { why }
function operations.claim()
    local key = prefix .. ':z:' .. arguments.tag
    local bytes = call('HGET', key, ARGV[3])
    if not bytes then
        return { 'unknown' }
    end
    local one = session(bytes)
    if one.lost > 0 and one.lost + arguments.window < millis() then
        call('HDEL', key, ARGV[3])
        return { 'unknown' }
    end
    if one.user ~= arguments.user then
        return { 'foreign' }
    end
    one.times = one.times + 1
    if one.process ~= arguments.process then
        tell(channel_of(one.process), head(6, { one.times }) .. ARGV[3])
    end
    one.process, one.lost = arguments.process, 0
    call('HSET', key, ARGV[3], session_bytes(one))
    return { 'taken', one.record, text(line.epoch), text(line.begin), text(line.last), text(one.times) }
end

-- { tag }, and the name of a socket -> the process that has it, or nothing
function operations.holder()
    local bytes = call('HGET', prefix .. ':z:' .. arguments.tag, ARGV[3])
    return bytes and session(bytes).process or ''
end

-- { process, tags, ttl, cursors }: the process is there, and has sockets that were named by
-- these. What others have left behind is looked through a little at a time -> cursors
function operations.refresh()
    call('SET', prefix .. ':line:on:' .. arguments.process, 1, 'PX', arguments.ttl)
    local cursors = {}
    for index, tag in ipairs(arguments.tags) do
        local key = prefix .. ':z:' .. tag
        call('PEXPIRE', key, arguments.ttl)
        local found = call('HSCAN', key, arguments.cursors[index] or '0', 'COUNT', 100)
        local all = found[2]
        for at = 1, #all, 2 do
            local process = session(all[at + 1]).process
            if process ~= arguments.process
                and call('EXISTS', prefix .. ':line:on:' .. process) == 0 then
                call('HDEL', key, all[at])
            end
        end
        cursors[index] = found[1]
    end
    return cursors
end

return operations[ARGV[1]]()
