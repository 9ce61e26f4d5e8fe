-- The line of kept events that all nodes share, and the sessions of clients that may come
-- back: what fanout/line says, as one script. Each call is one operation, and atomic.
--
-- KEYS[1]  the prefix of all keys, with its hash tag
-- ARGV[1]  the operation
-- ARGV[2]  its arguments as JSON
-- ARGV[3]  and so on: what is no text
--
-- <prefix>:line          hash: e epoch, i last number, f where it began, c claims of sessions,
--                        t when it began, run the server's run, x the last change of presence that was said,
--                        p the lines before it, each with its last number, the newest first,
--                        a:SCOPE a namespace's scope was there
-- <prefix>:line:op:P     the last batch of a process: its number, and its events' offsets
-- <prefix>:line:end:P    the last number of what a process has ended of users'
-- <prefix>:line:on:P     a process is there, or was lately
-- <prefix>:lm:SCOPE      packed: the epoch of the offsets, the last offset, the last number, number
--                        and offset of the last event that is not kept, bytes of events and keys
-- <prefix>:ll:SCOPE      list: the newest events
-- <prefix>:lk:SCOPE      hash: key -> the newest event of the key
-- <prefix>:lw:USER       set: processes that have sessions of a user, and, behind a "!", the line
--                        and scope of what was said to them
-- <prefix>:lx:USER        hash: type, or * for all -> the last number before their sessions were ended
-- <prefix>:z:TAG         hash: socket -> session, by the tag of the node that named the socket

local call = redis.call
local prefix = KEYS[1]
local arguments = cjson.decode(ARGV[2])
local LINE = prefix .. ':line'
-- Seconds for which a scope's numbers are remembered: for longer than its events.
local REMEMBERED = math.max(24 * 3600, 2 * math.ceil((arguments.age or 0) / 1000))
local MAX_EVENT, MAX_KEYS = 65536, 1000
-- Bytes after which an answer to `collect` ends, and the process asks for the rest. What is sent in a
-- call waits in the server, which closes a connection for which too much does.
local MAX_COLLECTED = 1048576
-- Bytes of what is known of earlier lines: some ten of them.
local MAX_ENDS = 300
local KEYED, GAP, REMOVES, CHANGES = 1, 4, 8, 16

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

-- The line, as it is.
local line = {}

-- Another line begins: nobody knows what is missing in the one before. `ends` are those before that.
local function begin_line(ends)
    if line.epoch > 0 then
        ends = text(line.epoch) .. ':' .. text(line.last) .. ' ' .. ends
        ends = string.sub(ends, 1, MAX_ENDS)
    end
    local time = call('TIME')
    local micros = time[1] * 1000000 + time[2]
    local epoch = math.floor(micros / 1000) % 4294967296
    line.epoch = epoch ~= line.epoch and epoch or (epoch + 1) % 4294967296
    line.last = math.max(line.last, micros, arguments.last or 0) + 1
    line.begin = line.last
    -- What scopes there were is forgotten with what was in them.
    local said = call('HGET', LINE, 'x')
    call('DEL', LINE)
    if said then
        call('HSET', LINE, 'x', said)
    end
    call('HSET', LINE, 'e', text(line.epoch), 'i', text(line.last), 'f', text(line.begin),
        'c', text(line.begin), 'run', line.run, 'p', ends, 't', text(micros))
end

-- Another run of the server may have forgotten the line's end, and so has one that somebody knows
-- a later number of.
do
    local known = call('HMGET', LINE, 'e', 'i', 'f', 'run', 'p')
    local ok, info = pcall(call, 'INFO', 'server')
    local run = ok and type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
    -- So that a test can tell of a restart.
    line.run = arguments.run or run
    line.epoch, line.last = tonumber(known[1] or 0), tonumber(known[2] or 0)
    line.begin = tonumber(known[3] or 0)
    if known[4] ~= line.run or (arguments.last or 0) > line.last then
        begin_line(known[5] or '')
    end
end

local function keep_last()
    call('HSET', LINE, 'i', text(line.last))
end

local function head(kind, numbers)
    return struct.pack('>BI4' .. string.rep('I8', #numbers), kind, line.epoch, unpack(numbers))
end

-- Of an event, behind its kind and the line's epoch: its number, the one before it, the epoch
-- of its offset, the offset; then its flags.
local EVENT, FLAGS = 3, 38

local function id_of(event)
    return (struct.unpack('>I8', event, 6))
end

-- What is known of scopes is read once and written once in a call.
local scopes = {}

local function scope_of(name)
    local scope = scopes[name]
    if scope then
        return scope
    end
    scope = { name = name, list = prefix .. ':ll:' .. name, keys = prefix .. ':lk:' .. name }
    local packed = call('GET', prefix .. ':lm:' .. name)
    if packed then
        scope.epoch, scope.offset, scope.last, scope.dropped, scope.dropped_offset, scope.bytes,
            scope.key_bytes = struct.unpack('>I8I8I8I8I8I8I8', packed)
    end
    -- What was before the line began is forgotten.
    if not packed or scope.epoch < line.begin then
        -- Without its numbers, what is there says that they were there.
        scope.is_torn = call('DEL', scope.list, scope.keys) > 0 and not packed
        scope.epoch, scope.offset, scope.last = 0, 0, 0
        scope.dropped, scope.dropped_offset, scope.bytes, scope.key_bytes = 0, 0, 0, 0
    elseif scope.key_bytes > 0 and call('EXISTS', scope.keys) == 0 then
        -- The newest of its keys are gone, and nobody has taken them out.
        scope.dropped, scope.dropped_offset = scope.last, scope.offset
        scope.key_bytes, scope.is_changed = 0, true
    end
    scopes[name] = scope
    return scope
end

-- Where it is noted that a scope was there, which has no numbers: they were evicted, or somebody
-- has deleted them. A room has numbers before it has members, and a socket's go with what was
-- said to it.
local function note_of(name)
    local kind = string.sub(name, 1, 1)
    if kind == 'a' then
        return 'HEXISTS', LINE, name
    elseif kind == 'u' then
        local from, to = string.find(name, '^u:%d+:')
        local length = tonumber(string.sub(name, 3, to - 1))
        local user = string.sub(name, to + length + 2)
        return 'SISMEMBER', prefix .. ':lw:' .. user, '!' .. text(line.epoch) .. ':' .. name
    end
end

local function was_there(scope)
    local look, key, note = note_of(scope.name)
    return scope.is_torn or string.sub(scope.name, 1, 1) == 'r'
        or (look ~= nil and call(look, key, note) == 1)
end

-- A scope that has no numbers gets some. What was said in it before, if anything may have been,
-- is gone.
local function begin_scope(scope, id)
    if was_there(scope) then
        scope.last, scope.dropped = id - 1, id - 1
    end
    local look, key, note = note_of(scope.name)
    if look == 'HEXISTS' then
        call('HSET', key, note, 1)
    elseif look == 'SISMEMBER' then
        call('SADD', key, note)
    end
    scope.epoch, scope.is_changed = id, true
end

local function put_scopes()
    for name, scope in pairs(scopes) do
        if scope.is_changed then
            local packed = struct.pack('>I8I8I8I8I8I8I8', scope.epoch, scope.offset, scope.last,
                scope.dropped, scope.dropped_offset, scope.bytes, scope.key_bytes)
            if string.sub(name, 1, 1) == 's' then
                call('SET', prefix .. ':lm:' .. name, packed, 'PX', arguments.age)
            else
                call('SET', prefix .. ':lm:' .. name, packed, 'EX', REMEMBERED)
            end
            if scope.key_bytes > 0 then
                call('EXPIRE', scope.keys, REMEMBERED)
            end
        end
        if scope.is_longer then
            call('PEXPIRE', scope.list, arguments.age)
        end
    end
end

local function forget_key(scope, key)
    scope.key_bytes = math.max(0, scope.key_bytes - call('HSTRLEN', scope.keys, key))
    call('HDEL', scope.keys, key)
end

local function drop_all(scope, id, offset)
    call('DEL', scope.list)
    scope.bytes, scope.dropped, scope.dropped_offset, scope.is_longer = 0, id, offset, false
end

-- Whether the event is kept as the newest of its key.
local function keep_key(scope, key, event)
    forget_key(scope, key)
    local count = call('HLEN', scope.keys)
    if count == 0 then
        scope.key_bytes = 0
    end
    if count >= MAX_KEYS or scope.key_bytes + #event > arguments.bytes then
        return false
    end
    call('HSET', scope.keys, key, event)
    scope.key_bytes = scope.key_bytes + #event
    return true
end

local function keep(scope, event)
    -- Of a namespace more is kept: it is many rooms.
    local share = string.sub(scope.name, 1, 1) == 'a' and 64 or 1
    local most, bytes = arguments.events * share, arguments.bytes * share
    local count = call('RPUSH', scope.list, event)
    if count == 1 then
        -- What has expired was dropped.
        scope.bytes = 0
        if scope.last > 0 then
            scope.dropped, scope.dropped_offset = scope.last, scope.offset - 1
        end
    end
    scope.bytes, scope.is_longer = scope.bytes + #event, true
    while count > 0 and (count > most or scope.bytes > bytes) do
        local oldest = call('LPOP', scope.list)
        count, scope.bytes = count - 1, scope.bytes - #oldest
        -- A newer one of the key makes it unneeded, or it is there as the newest.
        if string.byte(oldest, FLAGS) % 2 ~= KEYED then
            scope.dropped = id_of(oldest)
            scope.dropped_offset = struct.unpack('>I8', oldest, 30)
        end
    end
end

local function keep_flagged(scope, flags, key, event)
    if flags == REMOVES or (flags == KEYED and #event > MAX_EVENT) then
        forget_key(scope, key)
    end
    if #event > MAX_EVENT then
        drop_all(scope, line.last, scope.offset)
        return
    end
    if flags == KEYED and not keep_key(scope, key, event) then
        local other = string.char(string.byte(event, FLAGS) - KEYED)
        event = string.sub(event, 1, FLAGS - 1) .. other .. string.sub(event, FLAGS + 1)
    end
    keep(scope, event)
end

local function say_one(name, channel, flags, key, body)
    local scope = scope_of(name)
    line.last = line.last + 1
    local id = line.last
    if scope.epoch == 0 then
        begin_scope(scope, id)
    elseif flags == GAP then
        scope.epoch = id
    end
    local before = scope.last
    if flags ~= GAP then
        scope.offset = scope.offset + 1
    end
    local event = struct.pack('>BI4I8I8I8I8', EVENT, line.epoch, id, before, scope.epoch,
        scope.offset) .. body
    if flags == GAP then
        drop_all(scope, id, scope.offset)
        call('DEL', scope.keys)
        scope.key_bytes = 0
    else
        keep_flagged(scope, flags, key, event)
    end
    scope.last, scope.is_changed = id, true
    tell(channel, event)
    return scope.offset
end

-- A user's events are for the processes that have sessions of theirs, and are kept for these.
local function say_to_user(name, flags, user, body)
    local processes = {}
    for _, process in ipairs(call('SMEMBERS', prefix .. ':lw:' .. user)) do
        if string.sub(process, 1, 1) ~= '!' then
            processes[#processes + 1] = process
        end
    end
    if #processes == 0 then
        if scope_of(name).epoch == 0 then
            return 0
        end
        -- Whose sessions there are was known, and is not any more: who has them hears it.
        return say_one(name, prefix .. ':c', flags, '', body)
    end
    local bytes
    local said = tell
    tell = function(_, event) bytes = event end
    local offset = say_one(name, '', flags, '', body)
    tell = said
    for _, process in ipairs(processes) do
        tell(channel_of(process), bytes)
    end
    return offset
end

-- What goes to one socket is for the process that has it, or had it.
local function say_to_socket(name, channel, flags, socket, body)
    local key = prefix .. ':z:' .. text(struct.unpack('>I4', socket))
    local bytes = call('HGET', key, socket)
    if bytes then
        local size = struct.unpack('>I4', bytes)
        channel = channel_of(string.sub(bytes, 5, 4 + size))
    end
    return say_one(name, channel, flags, '', body)
end

local function socket_scope(socket)
    local hex = string.gsub(socket, '.', function(byte)
        return string.format('%02x', string.byte(byte))
    end)
    return 's:' .. hex
end

local operations = {}

-- { process, number, age, events, bytes }, then of each event its scope, channel, flags, key or
-- user, and body -> { epoch, begin, last, offsets }. Of a batch that is sent again, fewer events
-- may have come: the offsets are those of when it was done.
function operations.say()
    local done = prefix .. ':line:op:' .. arguments.process
    local offsets = {}
    local before = call('GET', done) or '0'
    local number = tonumber(string.match(before, '^%d+'))
    if number == arguments.number then
        for offset in string.gmatch(before, ' (%d+)') do
            offsets[#offsets + 1] = offset
        end
    elseif number < arguments.number then
        for at = 3, #ARGV, 5 do
            local name, channel, flags = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
            local offset
            local kind = string.sub(name, 1, 1)
            if kind == 'u' then
                offset = say_to_user(name, flags, ARGV[at + 3], ARGV[at + 4])
            elseif kind == 's' then
                offset = say_to_socket(name, channel, flags, ARGV[at + 3], ARGV[at + 4])
            else
                offset = say_one(name, channel, flags, ARGV[at + 3], ARGV[at + 4])
            end
            offsets[#offsets + 1] = text(offset)
        end
        call('SET', done, text(arguments.number) .. ' ' .. table.concat(offsets, ' '), 'EX', 3600)
        put_scopes()
        keep_last()
    end
    return { text(line.epoch), text(line.begin), text(line.last), offsets }
end

-- { after, to, age, events, bytes }, then of each scope its name, its channel, how many changes of
-- presence and these: what the registry has numbered behind `after` and up to `to`, unless it was
-- said. Each change takes a number of the line -> { epoch, begin, last }
function operations.changes()
    local counted = tonumber(call('GET', prefix .. ':edge') or 0)
    local said = tonumber(call('HGET', LINE, 'x') or 0)
    -- The registry has forgotten, and counts anew.
    if said > counted then
        said = 0
    end
    if arguments.to > said then
        for at = 3, #ARGV, 4 do
            line.last = line.last + tonumber(ARGV[at + 2]) - 1
            say_one(ARGV[at], ARGV[at + 1], CHANGES, '', ARGV[at + 3] .. struct.pack('>I8', said))
        end
        call('HSET', LINE, 'x', text(arguments.to))
        put_scopes()
        keep_last()
        if said > 0 and arguments.after > said then
            -- Nobody has read what is between, and nobody knows whom it was for.
            call('HDEL', LINE, 'run')
        end
    end
    return { text(line.epoch), text(line.begin), text(line.last) }
end

-- {}, then of each socket its name and up to which number it has received what was said to it
function operations.receive()
    for at = 3, #ARGV, 2 do
        local name, id = socket_scope(ARGV[at]), tonumber(ARGV[at + 1])
        local scope = scope_of(name)
        if scope.last <= id then
            call('DEL', scope.list, prefix .. ':lm:' .. name)
            scopes[name] = nil
        else
            local oldest = call('LINDEX', scope.list, 0)
            while oldest and id_of(oldest) <= id do
                scope.bytes, scope.is_changed = scope.bytes - #oldest, true
                call('LPOP', scope.list)
                oldest = call('LINDEX', scope.list, 0)
            end
        end
    end
    put_scopes()
    return 'OK'
end

-- { process, request, after, scopes }: the process hears the end of each scope that has
-- something after a number, then how far the line is -> of how many of the scopes, from the first on:
-- where there is much, it is to ask for the rest when these have come.
function operations.collect()
    local own = channel_of(arguments.process)
    local after = arguments.after
    local done, sent = 0, 0
    for index, name in ipairs(arguments.scopes) do
        if sent >= MAX_COLLECTED then
            break
        end
        done = index
        local scope = scope_of(name)
        if scope.epoch == 0 and was_there(scope) then
            line.last = line.last + 1
            keep_last()
            begin_scope(scope, line.last)
        end
        if after == 0 or scope.last > after then
            local all = call('LRANGE', scope.list, 0, -1)
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
            for _, event in ipairs(call('HVALS', scope.keys)) do add(event) end
            for _, event in ipairs(all) do add(event) end
            local bytes = table.concat(parts)
            sent = sent + #bytes
            tell(own, bytes)
        end
    end
    put_scopes()
    tell(own, head(5, { arguments.request, line.begin, line.last }))
    return done
end

-- { line, id } -> { 1, ... } if what had that number in a line is in it: that line is this one, or
-- ended later than that. A server that has lost what it was told last does not know of it: { 0, ... }.
-- Behind it for how many milliseconds this line has been there, and epoch, begin, last.
function operations.has()
    local is_there = 0
    if arguments.line == line.epoch and arguments.id <= line.last then
        is_there = 1
    end
    local known = call('HMGET', LINE, 'p', 't')
    for epoch, last in string.gmatch(known[1] or '', '(%d+):(%d+) ') do
        if tonumber(epoch) == arguments.line and arguments.id <= tonumber(last) then
            is_there = 1
        end
    end
    local age = math.max(0, millis() - math.floor(tonumber(known[2] or 0) / 1000))
    return { is_there, age, text(line.epoch), text(line.begin), text(line.last) }
end

-- {} -> { epoch, begin, last } of another line
function operations.end_line()
    begin_line(call('HGET', LINE, 'p') or '')
    return { text(line.epoch), text(line.begin), text(line.last) }
end

-- A session: the process that has it, when it was lost (0: it was not), the number of the claim
-- by which it has it, whose it is, and what the gateway knows of it.
local function session(bytes)
    local size = struct.unpack('>I4', bytes)
    local process, at = string.sub(bytes, 5, 4 + size), 5 + size
    local lost, claim, length = struct.unpack('>I8I8I4', bytes, at)
    local from = at + 20
    return {
        process = process, lost = lost, claim = claim,
        user = string.sub(bytes, from, from + length - 1), record = string.sub(bytes, from + length),
    }
end

local function session_bytes(one)
    return struct.pack('>I4', #one.process) .. one.process
        .. struct.pack('>I8I8I4', one.lost, one.claim, #one.user) .. one.user .. one.record
end

-- { process, ttl }, then of each session the tag and the name of its socket, whether it is lost
-- (1), there (0) or gone (-), its user, what is known of it, and the claim by which the process has
-- it, or 0. A server that has lost the claim does not know it for the process's.
function operations.remember()
    for at = 3, #ARGV, 6 do
        local key, name, state = prefix .. ':z:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
        local bytes = call('HGET', key, name)
        local known, claim = bytes and session(bytes), tonumber(ARGV[at + 5])
        local is_own = not known or known.process == arguments.process
        if is_own or known.claim < claim then
            if not is_own then
                tell(channel_of(known.process), head(6, { claim }) .. name .. (state == '-' and '-' or ''))
            end
            if state == '-' then
                call('HDEL', key, name)
                local scope = socket_scope(name)
                call('DEL', prefix .. ':ll:' .. scope, prefix .. ':lm:' .. scope)
            else
                call('HSET', key, name, session_bytes({
                    process = arguments.process, lost = state == '1' and millis() or 0,
                    claim = math.max(claim, known and known.claim or 0), user = ARGV[at + 3],
                    record = ARGV[at + 4],
                }))
                if call('PTTL', key) < arguments.ttl then
                    call('PEXPIRE', key, arguments.ttl)
                end
            end
        end
    end
    return 'OK'
end

-- { process, users }: of which of these users it is forgotten that the process has sessions.
function operations.forgotten()
    local forgotten = {}
    for _, user in ipairs(arguments.users) do
        if call('SISMEMBER', prefix .. ':lw:' .. user, arguments.process) == 0 then
            forgotten[#forgotten + 1] = user
        end
    end
    return forgotten
end

-- { process, users, ttl, age }: the process has sessions of these users. Then of each gap in what
-- was said to some of them its scope, the user, and body. A session can be taken up only where it
-- is known whose it is: so nobody goes on over what was missed -> { epoch, begin, last }
function operations.attend()
    for _, user in ipairs(arguments.users) do
        local key = prefix .. ':lw:' .. user
        call('SADD', key, arguments.process)
        call('PEXPIRE', key, arguments.ttl)
    end
    for at = 3, #ARGV, 3 do
        say_to_user(ARGV[at], GAP, ARGV[at + 1], ARGV[at + 2])
    end
    put_scopes()
    if #ARGV > 2 then
        keep_last()
    end
    return { text(line.epoch), text(line.begin), text(line.last) }
end

-- Whether a user's sessions that began behind a number were ended since.
local function was_ended(user, kind, begin)
    for _, number in ipairs(call('HMGET', prefix .. ':lx:' .. user, kind, '*')) do
        if number and begin <= tonumber(number) then
            return true
        end
    end
    return false
end

-- { process, users, ttl }, of each of these the process's number of that, which grows, the user, and
-- a type or *: what they have begun so far is nobody's. It is known by a number of the line, which
-- all processes hear of. What is sent again is not done again.
function operations.end_all()
    local done_key = prefix .. ':line:end:' .. arguments.process
    local done = tonumber(call('GET', done_key) or 0)
    if arguments.users[#arguments.users][1] > done then
        line.last = line.last + 1
        keep_last()
        for _, user in ipairs(arguments.users) do
            if user[1] > done then
                local key = prefix .. ':lx:' .. user[2]
                call('HSET', key, user[3], text(line.last - 1))
                call('PEXPIRE', key, arguments.ttl)
            end
        end
        call('SET', done_key, text(arguments.users[#arguments.users][1]), 'PX', arguments.ttl)
        tell(prefix .. ':c', head(5, { 0, line.begin, line.last }))
    end
    return { text(line.epoch), text(line.begin), text(line.last) }
end

-- Of each session the tag and the name of its socket -> of each 1: there was something of it, 2: that
-- it is ended is known already, 0: there was nothing. What is left of it keeps its process from writing
-- it down again before that hears of it; then it is removed like what processes leave behind that are
-- gone.
operations['end'] = function()
    local found = {}
    for at = 3, #ARGV, 2 do
        local key, name = prefix .. ':z:' .. ARGV[at], ARGV[at + 1]
        local bytes = call('HGET', key, name)
        local one = bytes and session(bytes)
        if not one or one.process == '' then
            found[#found + 1] = one and 2 or 0
        else
            local claim = call('HINCRBY', LINE, 'c', 1)
            tell(channel_of(one.process), head(6, { claim }) .. name .. '-')
            call('HSET', key, name, session_bytes({
                process = '', lost = millis(), claim = claim, user = '', record = '',
            }))
            local scope = socket_scope(name)
            call('DEL', prefix .. ':ll:' .. scope, prefix .. ':lm:' .. scope)
            found[#found + 1] = 1
        end
    end
    return found
end

-- { process, tag, user, window, begin, attended, kind, ttl }, and the name of a socket -> { 'taken',
-- record, epoch, begin, last, the claim's number, which process had it }, or { why }. `attended` is
-- there if the socket is a user's, of that type: the process has sessions of that user from here on.
function operations.claim()
    local key = prefix .. ':z:' .. arguments.tag
    local bytes = call('HGET', key, ARGV[3])
    if not bytes then
        return { 'unknown' }
    end
    local one = session(bytes)
    if one.process == '' then
        return { 'unknown' }
    end
    if one.lost > 0 and one.lost + arguments.window < millis() then
        call('HDEL', key, ARGV[3])
        return { 'unknown' }
    end
    if one.user ~= arguments.user then
        return { 'foreign' }
    end
    local had = one.process
    if arguments.attended then
        if was_ended(arguments.attended, arguments.kind, arguments.begin) then
            return { 'unknown' }
        end
        local key = prefix .. ':lw:' .. arguments.attended
        -- Whoever has a session of a user is there. Else it was evicted, and nobody knows what was
        -- said to the user since.
        if call('SISMEMBER', key, had) == 0 then
            return { 'unknown' }
        end
        call('SADD', key, arguments.process)
        call('PEXPIRE', key, arguments.ttl)
    end
    -- Counted for all sessions together: one that was forgotten and written anew goes on.
    one.claim = call('HINCRBY', LINE, 'c', 1)
    if one.process ~= arguments.process then
        tell(channel_of(one.process), head(6, { one.claim }) .. ARGV[3])
    end
    one.process, one.lost = arguments.process, 0
    call('HSET', key, ARGV[3], session_bytes(one))
    return {
        'taken', one.record, text(line.epoch), text(line.begin), text(line.last),
        text(one.claim), had,
    }
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
