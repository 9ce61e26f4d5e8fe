-- The registry of a cluster: what registry.rs says, as one script. Each call is one
-- operation, and atomic.
--
-- KEYS[1]  the prefix of all keys, with its hash tag
-- ARGV[1]  the operation
-- ARGV[2]  the time of day in milliseconds; 0: this server's
-- ARGV[3]  its arguments as JSON
--
-- <prefix>:clock        when the time was noted last, how far the cluster's own is behind it, and
--                       how far that goes on at most without a call
-- <prefix>:nodes        sorted set: incarnation -> end of its lease; 0: it is dead
-- <prefix>:info         hash: incarnation -> what the node says of itself
-- <prefix>:owner        hash: process -> its incarnation
-- <prefix>:u:USER       hash: s:SOCKET -> entry, t:TYPE -> state, p -> its processes, k: it
--                       has come back before, w -> until when changes of its devices are told
-- <prefix>:r:USER       hash: socket -> its rooms
-- <prefix>:i:INC:BUCKET hash: socket -> whose; what there is to compare and to sweep
-- <prefix>:sockets      hash: incarnation -> how many sockets it has
-- <prefix>:suspects     hash: incarnation -> who suspects it, since when, and when it was said last
-- <prefix>:members      another number where the incarnations are others
-- <prefix>:version      the newest that all nodes could read who lived when it was last looked at
-- <prefix>:unread       how often something was set aside
-- <prefix>:aside        hash: what that was, the last hundred
-- <prefix>:said         hash: incarnation -> the number of its last operation, and the answer
-- <prefix>:x:PROCESS    hash: socket -> how it lost its place
-- <prefix>:due          sorted set: whose presence is to be looked at -> when
-- <prefix>:edges        stream of edges, and of changes of devices
-- <prefix>:edge         the number of the last edge
-- <prefix>:devices      the number of the last change of devices
-- <prefix>:names        how many bytes of rooms' names edges have brought since the last piece
-- <prefix>:pieces       list: the edges with which the last pieces ended
-- <prefix>:epoch        a name for the registry's memory, in this life
-- <prefix>:secret       what nodes show each other
-- <prefix>:run          the run of the server that was seen last
-- <prefix>:successors   the memories that somebody knew before this one, the last first
-- <prefix>:from         after which edge, and which number, this memory's life began anew
-- <prefix>:floor        what is told has a greater revision: it was reached before this run or life, or
--                       by a clock that was ahead of this one
-- <prefix>:began        what has this revision, or a smaller one, is of before this run or life: what was
--                       said since may be lost
-- <prefix>:hold         until when nobody is taken for gone
-- <prefix>:blind        until when nobody is taken for new either
-- <prefix>:complete     set: incarnations of which all is there, in this hold
-- <prefix>:expected     how many nodes there were before memory was lost

local call = redis.call
local prefix = KEYS[1]
local wall = tonumber(ARGV[2])
local arguments = cjson.decode(ARGV[3])
if wall == 0 then
    local time = call('TIME')
    wall = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The cluster's own time, by which leases and all else end: it never goes back, and between two
-- calls no further than some nodes are silent for. So a server's clock that is set, or a server
-- that nobody reached for a while, ends no lease. `wall` is what people are told.
local CLOCK = prefix .. ':clock'
local last, behind, most = string.match(call('GET', CLOCK) or '', '^(%S+) (%S+) (%S+)$')
last, behind, most = tonumber(last or wall), tonumber(behind or 0), tonumber(most or 0)

local function write_clock()
    call('SET', CLOCK, string.format('%.0f %.0f %.0f', wall, behind, most))
end

-- Nobody could reach the server for longer than nodes are silent for, or its clock was set.
local was_away = most > 0 and wall - last > most
if wall < last then
    behind = behind + wall - last
    write_clock()
elseif most > 0 then
    behind = behind + math.max(wall - last - most, 0)
    -- Seldom, as it is a write.
    if (wall - last) * 6 >= most then
        write_clock()
    end
end
local now = wall - behind

local NODES, INFO, OWNER = prefix .. ':nodes', prefix .. ':info', prefix .. ':owner'
local DUE, EDGES, DEVICES = prefix .. ':due', prefix .. ':edges', prefix .. ':devices'
local NAMES, PIECES = prefix .. ':names', prefix .. ':pieces'
local HOLD, BLIND = prefix .. ':hold', prefix .. ':blind'
local COMPLETE, EXPECTED = prefix .. ':complete', prefix .. ':expected'
local SOCKETS, SAID = prefix .. ':sockets', prefix .. ':said'
local SUSPECTS, MEMBERS = prefix .. ':suspects', prefix .. ':members'
local VERSION = prefix .. ':version'
local EPOCH, SUCCESSORS = prefix .. ':epoch', prefix .. ':successors'
-- Memories before this one that are known by their names.
local KEPT_NAMES = 32
local FROM, FLOOR, BEGAN = prefix .. ':from', prefix .. ':floor', prefix .. ':began'
-- How many nodes have to suspect another, unless fewer could; how many neighbours of a newcomer
-- on each side are told of it.
local JURY, NEIGHBOURS = 2, 2
-- Entries that one comparison reads, beyond those of one bucket: some milliseconds; and those
-- that it answers.
local MAX_COMPARED, MAX_LISTED = 2000, 1000
local BUCKETS = 256
local KEPT_EDGES = 65536
-- Most entries that are looked at for the first edge that was not said.
local MOST_UNSAID = 512
-- Of edges that name rooms so many bytes of names are kept, in pieces: a name may have 256.
local NAMES_PIECE, KEPT_PIECES = 1024 * 1024, 32
-- The last ones of what was set aside.
local ASIDE, KEPT_ASIDE = prefix .. ':aside', 100
-- Rooms of a user, and of those that an edge names to say who has heard already, and their bytes.
local KEPT_ROOMS = 1000
local NAMED_ROOMS, NAMED_BYTES = 100, 4096
-- For how many seconds a user who is gone is remembered; one who was never there before this
-- visit, as guests are; and how many milliseconds lie between two visits.
local REMEMBERED = 7 * 24 * 3600
local REMEMBERED_GUEST = 24 * 3600
local VISIT_APART = 3600 * 1000
-- Sockets that one look-up reads, beyond those of one user: some milliseconds.
local MAX_LOOKED_UP = 2000
-- For how many milliseconds after a look-up changes of a user's devices are told, and when that
-- is said anew: nodes keep an answer for five minutes at most. Of a user with more sockets than
-- this it is told that there was a change, but not how many devices there are: counting them each
-- time would be much work.
local TOLD_FOR, TOLD_AGAIN = 900 * 1000, 600 * 1000
local MAX_COUNTED = 40

local hold = tonumber(call('GET', HOLD) or 0) or 0
local blind = tonumber(call('GET', BLIND) or 0) or 0

-- Whatever nobody can read, and what failed for one user, is told there and counted, and keeps no
-- other from its turn.
local function set_aside(what)
    local number = call('INCR', prefix .. ':unread')
    call('HSET', ASIDE, number % KEPT_ASIDE, string.sub(what, 1, 500))
end

-- A table, or nothing.
local function decode(raw, where)
    local ok, value = pcall(cjson.decode, raw or '')
    if ok and type(value) == 'table' then
        return value
    elseif raw then
        set_aside(where .. ' ' .. raw)
    end
end

-- Does something for one of many. Nothing, if it failed.
local function attempt(whose, work, ...)
    local ok, result = pcall(work, ...)
    if ok then
        return result
    end
    set_aside(tostring(whose) .. ': ' .. tostring(type(result) == 'table' and result.err or result))
end

local function user_key(user)
    return prefix .. ':u:' .. user
end

local function rooms_key(user)
    return prefix .. ':r:' .. user
end

local function index_key(incarnation, bucket)
    return prefix .. ':i:' .. incarnation .. ':' .. bucket
end

local function enlist(incarnation, mark, socket, whose)
    if call('HSET', index_key(incarnation, string.sub(mark, 1, 2)), socket, whose) == 1 then
        call('HINCRBY', SOCKETS, incarnation, 1)
    end
end

local function unlist(incarnation, bucket, socket)
    if call('HDEL', index_key(incarnation, bucket), socket) == 1 then
        call('HINCRBY', SOCKETS, incarnation, -1)
    end
end

local function inbox_key(process)
    return prefix .. ':x:' .. process
end

local function process_of(incarnation)
    return string.match(incarnation, '^(.*)%.[^.]*$') or incarnation
end

local function node_of(incarnation)
    return process_of(process_of(incarnation))
end

-- A user and its type as one text. The type has no colon.
local function join_who(user, kind)
    return kind .. ':' .. user
end

local function split_who(who)
    local colon = string.find(who, ':', 1, true) or 0
    return string.sub(who, colon + 1), string.sub(who, 1, colon - 1)
end

local function lease(incarnation)
    return tonumber(call('ZSCORE', NODES, incarnation) or 0)
end

local looked_up = {}
local function alive(incarnation)
    local known = looked_up[incarnation]
    if known == nil then
        local till = lease(incarnation)
        known = till >= now or (till > 0 and hold > now)
        looked_up[incarnation] = known
    end
    return known
end

local function owns(incarnation)
    return call('HGET', OWNER, process_of(incarnation)) == incarnation and alive(incarnation)
end

-- What a node can read, as it says.
local function versions_of(incarnation)
    local ok, info = pcall(cjson.decode, call('HGET', INFO, incarnation) or '')
    local proto = ok and type(info) == 'table' and info.proto
    if type(proto) == 'table' and tonumber(proto.min) and tonumber(proto.max) then
        return tonumber(proto.min), tonumber(proto.max)
    end
    return 1, 1
end

-- The newest version that all can read who live: in a hold also those whose leases are over, as they
-- may go on.
local function agree_on_version()
    local version
    local from = hold > now and '(0' or string.format('%.0f', now)
    for _, one in ipairs(call('ZRANGEBYSCORE', NODES, from, '+inf')) do
        local _, newest = versions_of(one)
        version = math.min(version or newest, newest)
    end
    call('SET', VERSION, version or 0)
end

local function begin_hold(ttl, is_blind)
    -- Those who were there before memory was lost are waited for in this one too.
    if hold <= now then
        call('DEL', EXPECTED)
    end
    hold = now + ttl
    call('SET', HOLD, hold)
    if is_blind then
        blind = now + ttl
        call('SET', BLIND, blind)
    end
    call('DEL', COMPLETE)
    agree_on_version()
end

-- A node is complete; if all are, nobody is waited for any more.
local function complete(incarnation, which)
    if hold <= now or which ~= hold then
        return
    end
    call('SADD', COMPLETE, incarnation)
    local living = call('ZCOUNT', NODES, '(0', '+inf')
    if call('SCARD', COMPLETE) >= math.max(living, tonumber(call('GET', EXPECTED) or 0)) then
        call('DEL', HOLD, BLIND, COMPLETE, EXPECTED)
        hold, blind = 0, 0
    end
end

local function get_floor()
    return tonumber(call('GET', FLOOR) or 0)
end

-- What is told from now on is later than this.
local function raise_floor(rev)
    local floor = string.format('%.0f', math.max(rev, get_floor()))
    call('SET', FLOOR, floor)
    return floor
end

-- Another run or life: what was said just before may be lost.
local function begin_anew()
    call('SET', BEGAN, raise_floor(wall - 1))
end

local function watch_run(ttl)
    local ok, info = pcall(call, 'INFO', 'server')
    local run = ok and type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
    -- So that a test can tell of a restart.
    run = arguments.run or run
    local before = call('GET', prefix .. ':run')
    if before ~= run then
        call('SET', prefix .. ':run', run)
        if before then
            begin_anew()
            begin_hold(ttl, true)
        end
    end
    -- Nobody could reach the server for so long that all leases are over.
    if hold <= now and call('ZCOUNT', NODES, '(0', '+inf') > 0
        and call('ZCOUNT', NODES, string.format('%.0f', now), '+inf') == 0 then
        begin_hold(ttl, blind > 0)
    end
end

-- A node was told of a revision: what is told from now on is later, whatever this server's clock says.
local function stay_above(rev)
    if (rev or 0) > wall then
        local floor = raise_floor(rev)
        -- Where memory was lost, that may be what it was told.
        if blind > now then
            call('SET', BEGAN, floor)
        end
    end
end

-- The revision that follows one of a user.
local function next_rev(rev)
    return math.max(rev + 1, wall, get_floor() + 1)
end

-- Whether what has this revision is of before this run or life: nodes may have been told something
-- later, of which nothing is known here.
local function is_of_before(rev)
    return rev <= tonumber(call('GET', BEGAN) or 0)
end

-- States: whether announced as online, revision, number of sockets, last seen; and, of
-- the rooms whose members were told or will be when the user is, how many of its
-- sockets are in each.
local function get_state(user, kind)
    local raw = call('HGET', user_key(user), 't:' .. kind)
    local state = raw and decode(raw, 'state')
    for i = 1, state and 4 or 0 do
        state[i] = tonumber(state[i]) or 0
    end
    return state
end

-- An entry as it is kept, or nothing; what is none does not stay.
local function read_entry(user, socket, raw)
    local e = decode(raw, 'entry')
    if e and type(e[1]) == 'string' and type(e[2]) == 'string' then
        return e
    end
    call('HDEL', user_key(user), 's:' .. socket)
end

local function put_state(user, kind, state)
    call('HSET', user_key(user), 't:' .. kind, cjson.encode(state))
end

local function schedule(user, kind, at)
    call('ZADD', DUE, at, join_who(user, kind))
end

-- At `at`, or when it was due before, whichever is later.
local function postpone(user, kind, at)
    call('ZADD', DUE, 'GT', at, join_who(user, kind))
end

local function room_names(state)
    local names = {}
    for room in pairs(state[5] or {}) do
        names[#names + 1] = room
    end
    return names
end

local function drop_room(state, room, keep)
    local rooms = state[5]
    if rooms and rooms[room] then
        rooms[room] = math.max(rooms[room] - 1, 0)
        if rooms[room] == 0 and not keep then
            rooms[room] = nil
            if next(rooms) == nil then
                state[5] = nil
            end
        end
    end
end

local function as_set(list)
    local set = {}
    for _, item in ipairs(list or {}) do
        set[item] = true
    end
    return set
end

-- A socket has changed its rooms. Returns those that the user is new in.
local function change_rooms(state, before, after)
    local old, wanted, new = as_set(before), as_set(after), {}
    local count = after and #after > 0 and #room_names(state) or 0
    for room in pairs(wanted) do
        local is_counted = state[5] and state[5][room]
        if not old[room] and (is_counted or count < KEPT_ROOMS) then
            count = count + (is_counted and 0 or 1)
            state[5] = state[5] or {}
            if not state[5][room] then
                new[#new + 1] = room
            end
            state[5][room] = (state[5][room] or 0) + 1
        end
    end
    for room in pairs(old) do
        if not wanted[room] then
            drop_room(state, room, false)
        end
    end
    return new
end

-- Users who were announced as online and have a socket more or less by this call: of them is told
-- on how many devices they are, unless an edge says more.
local moved, moved_order = {}, {}
local function note_move(user, kind, state)
    if state[1] == 1 then
        if moved[user] == nil then
            moved_order[#moved_order + 1] = user
        end
        moved[user] = { kind, state[2] }
    end
end

-- The first of some rooms, as many as an edge names to say who has heard already.
local function first_rooms(rooms)
    local bytes = 0
    for i, room in ipairs(rooms) do
        bytes = bytes + #room
        if i > NAMED_ROOMS or bytes > NAMED_BYTES then
            return { unpack(rooms, 1, i - 1) }
        end
    end
    return rooms
end

-- An edge has brought so many bytes of rooms' names. Those that are too many go with the oldest edges:
-- whoever has not read them sees that by their numbers.
local function bound_names(id, bytes)
    if call('INCRBY', NAMES, bytes) < NAMES_PIECE then
        return
    end
    call('SET', NAMES, 0)
    if call('RPUSH', PIECES, id) > KEPT_PIECES then
        call('XTRIM', EDGES, 'MINID', '~', call('LPOP', PIECES))
    end
end

local function write_edge(user, kind, online, rev, rooms, others)
    if not others then
        moved[user] = moved[user] and false
    end
    local fields = {
        'w', join_who(user, kind), 'o', online, 'r', string.format('%.0f', rev),
        't', string.format('%.0f', wall),
    }
    local bytes = 0
    for name, list in pairs({ m = rooms, k = others and first_rooms(others) }) do
        if #list > 0 or name == 'k' then
            local names = #list > 0 and cjson.encode(list) or '[]'
            fields[#fields + 1] = name
            fields[#fields + 1] = names
            bytes = bytes + #names
        end
    end
    local id = call('XADD', EDGES, 'MAXLEN', '~', KEPT_EDGES, '*', 'n', call('INCR', prefix .. ':edge'),
        unpack(fields))
    if bytes > 2 then
        bound_names(id, bytes)
    end
end

-- How many devices a user is on: those with names, each once, and sockets without.
local function count_devices(user)
    local count, named, all = 0, {}, call('HGETALL', user_key(user))
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 2) == 's:' then
            local e = read_entry(user, string.sub(all[i], 3), all[i + 1])
            if e and alive(e[1]) and not named[e[4]] then
                count = count + 1
                named[e[4]] = e[4] ~= ''
            end
        end
    end
    return count
end

-- Of whoever somebody asked about lately. It has the form of an edge that tells nobody anything,
-- so that builds which know of none can read it.
local function tell_move(user)
    local known = call('HMGET', user_key(user), 'w', 'p')
    local told_until, sockets = tonumber(known[1] or 0), 0
    if told_until < now then
        if told_until > 0 then
            call('HDEL', user_key(user), 'w')
        end
        return
    end
    for count in string.gmatch(known[2] or '', '=(%d+)') do
        sockets = sockets + count
    end
    call('XADD', EDGES, 'MAXLEN', '~', KEPT_EDGES, '*',
        'w', join_who(user, moved[user][1]), 'o', 1, 'r', string.format('%.0f', moved[user][2]),
        't', string.format('%.0f', wall), 'k', '[]', 'd', call('INCR', DEVICES),
        'c', sockets <= MAX_COUNTED and count_devices(user) or -1)
end

local function tell_moves()
    for _, user in ipairs(moved_order) do
        if moved[user] then
            attempt(user, tell_move, user)
        end
    end
end

local function forget_later(user)
    local all, remembered = call('HGETALL', user_key(user)), REMEMBERED_GUEST
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 2) == 's:' then
            return
        elseif all[i] == 'k' then
            remembered = REMEMBERED
        elseif string.sub(all[i], 1, 2) == 't:' then
            local state = decode(all[i + 1], 'state')
            if state and (state[1] == 1 or (tonumber(state[3]) or 0) > 0) then
                return
            end
        end
    end
    call('EXPIRE', user_key(user), remembered)
end

-- Counts a user's sockets. It is not believed that there are as many as were counted one by one
-- where something is to be announced, or was found to be missing.
local function recount(user, kind, state)
    local count, all = 0, call('HGETALL', user_key(user))
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 2) == 's:' then
            local e = read_entry(user, string.sub(all[i], 3), all[i + 1])
            count = count + (e and e[2] == kind and 1 or 0)
        end
    end
    if count ~= state[3] then
        state[3] = count
        put_state(user, kind, state)
    end
end

-- True: a user who is gone is to be announced later.
local function settle(user, kind, grace)
    local state = get_state(user, kind)
    if not state then
        return
    end
    local online = state[3] > 0 and 1 or 0
    if online == state[1] then
        if online == 0 then
            forget_later(user)
        end
        return
    end
    if online == 1 and blind > now then
        schedule(user, kind, now)
        return
    end
    local due = online == 0 and tonumber(call('ZSCORE', DUE, join_who(user, kind))) or 0
    -- Nothing is worked off in a hold.
    if online == 0 and (grace > 0 or due > now or hold > now) then
        postpone(user, kind, now + grace)
        return true
    end
    recount(user, kind, state)
    if online ~= (state[3] > 0 and 1 or 0) then
        return
    end
    state[1] = online
    state[2] = next_rev(state[2])
    local rooms = room_names(state)
    if online == 0 then
        state[5] = nil
    end
    put_state(user, kind, state)
    write_edge(user, kind, online, state[2], rooms)
    if online == 0 then
        forget_later(user)
    end
end

local function get_entry(user, socket)
    local raw = call('HGET', user_key(user), 's:' .. socket)
    if not raw then
        return nil
    end
    local e = read_entry(user, socket, raw)
    if not e then
        return nil
    end
    local rooms = e[6] or nil
    if rooms == true then
        rooms = decode(call('HGET', rooms_key(user), socket) or '[]', 'rooms')
    end
    return {
        s = socket, i = e[1], y = e[2], n = e[3], d = e[4], a = e[5], r = rooms,
        p = e[7] or nil, h = e[8] or '',
    }
end

-- The number in the mark of an entry as it is kept, which it ends with: 12 hexadecimal digits
-- after those of the bucket.
local function number_of(raw)
    return string.sub(raw, -14, -3)
end

-- `probation`: the policy by which others go once the socket is there; nil: it has its place.
-- Rooms stand apart: few ask for them, and they may be many.
local function put_entry(incarnation, user, kind, entry, probation)
    local has_rooms = entry.r and #entry.r > 0
    if has_rooms then
        call('HSET', rooms_key(user), entry.s, cjson.encode(entry.r))
    end
    local e = {
        incarnation, kind, entry.n, entry.d, entry.a, has_rooms or false, probation or false, entry.h,
    }
    call('HSET', user_key(user), 's:' .. entry.s, cjson.encode(e))
end

-- One socket more or less at a process, for those who send to the user.
local function count_at(user, process, by)
    local counts, is_known = {}, false
    for name, count in string.gmatch(call('HGET', user_key(user), 'p') or '', '(%S+)=(%d+)') do
        if name == process then
            count, is_known = tonumber(count) + by, true
        end
        if tonumber(count) > 0 then
            counts[#counts + 1] = name .. '=' .. count
        end
    end
    if not is_known and by > 0 then
        counts[#counts + 1] = process .. '=' .. by
    end
    if #counts > 0 then
        call('HSET', user_key(user), 'p', table.concat(counts, ' '))
    else
        call('HDEL', user_key(user), 'p')
    end
end

-- `entry`: s socket, n namespace, d device, a since, p policy, r rooms, h mark. `told`: the
-- members of its rooms know of the user. `probation`: as in `put_entry`.
local function add(incarnation, user, kind, entry, told, probation)
    local before = get_entry(user, entry.s)
    put_entry(incarnation, user, kind, entry, probation)
    call('PERSIST', user_key(user))
    local state = get_state(user, kind) or { 0, 0, 0, 0 }
    local others = room_names(state)
    local new = change_rooms(state, before and before.r, entry.r)
    local process, process_before = process_of(incarnation), before and process_of(before.i)
    if before and before.r and not (entry.r and #entry.r > 0) then
        call('HDEL', rooms_key(user), entry.s)
    end
    if not before then
        if state[3] == 0 and state[4] > 0 and wall - state[4] > VISIT_APART then
            call('HSET', user_key(user), 'k', 1)
        end
        state[3] = state[3] + 1
        note_move(user, kind, state)
    elseif before.i ~= incarnation then
        unlist(before.i, string.sub(before.h, 1, 2), entry.s)
        -- It was not believed for a while.
        if not alive(before.i) then
            note_move(user, kind, state)
        end
    end
    if process ~= process_before then
        count_at(user, process, 1)
        if before then
            count_at(user, process_before, -1)
        end
    end
    local arrives = state[1] == 1 and not told and #new > 0
    if arrives and is_of_before(state[2]) then
        -- Nobody would believe what is older than what they were told.
        state[2] = next_rev(state[2])
    end
    put_state(user, kind, state)
    if not before then
        -- Whoever was to come back has.
        call('ZREM', DUE, join_who(user, kind))
    end
    enlist(incarnation, entry.h, entry.s, join_who(user, kind))
    if arrives then
        write_edge(user, kind, 1, state[2], new, others)
    end
    settle(user, kind, 0)
end

-- `only`: if it is an entry of this incarnation.
local function remove(user, socket, only)
    local entry = get_entry(user, socket)
    if not entry or (only and entry.i ~= only) then
        return false
    end
    call('HDEL', user_key(user), 's:' .. socket)
    unlist(entry.i, string.sub(entry.h, 1, 2), socket)
    if entry.r then
        call('HDEL', rooms_key(user), socket)
    end
    count_at(user, process_of(entry.i), -1)
    local state = get_state(user, entry.y) or { 0, 0, 0, 0 }
    state[3] = math.max(state[3] - 1, 0)
    state[4] = wall
    note_move(user, entry.y, state)
    for _, room in ipairs(entry.r or {}) do
        -- Its members are told when the user goes, if they heard that it came.
        local keep = state[1] == 1 and #room_names(state) <= KEPT_ROOMS
        drop_room(state, room, keep)
    end
    put_state(user, entry.y, state)
    return true
end

local function is_before(a, b)
    if a.a ~= b.a then
        return a.a < b.a
    end
    return a.s < b.s
end

-- Others of the user in the same namespace whose leases live, the oldest first: those that
-- have their places, and those on probation. Without a limit only those of the same device are
-- anybody's rivals, and others may be missing.
local function rivals_of(user, kind, entry)
    local rivals, others = {}, {}
    local device = entry.p == 'u' and cjson.encode(entry.d)
    if entry.p == 'u' and entry.d == '' then
        return rivals, others
    end
    local all = call('HGETALL', user_key(user))
    for i = 1, #all, 2 do
        local socket = string.sub(all[i], 3)
        if string.sub(all[i], 1, 2) == 's:' and socket ~= entry.s and socket ~= entry.f
            and (not device or string.find(all[i + 1], device, 1, true)) then
            local e = read_entry(user, socket, all[i + 1])
            local is_other = e and e[2] == kind and e[3] == entry.n
            if is_other and alive(e[1]) then
                local list = e[7] and others or rivals
                list[#list + 1] = { s = socket, i = e[1], y = e[2], n = e[3], d = e[4], a = e[5] }
            elseif is_other and (not device or e[4] == entry.d) and lease(e[1]) > 0 then
                -- No hold gives back a place that another one may have now.
                call('ZADD', NODES, 0, e[1])
            end
        end
    end
    table.sort(rivals, is_before)
    return rivals, others
end

local function loser(socket, why, device, incarnation)
    return cjson.encode({ s = socket, w = why, d = device, o = node_of(incarnation) })
end

local nudged = {}
local function oust(user, held, why, by, winner, mine)
    remove(user, held.s)
    local lost = loser(held.s, why, by.d, winner)
    local process = process_of(held.i)
    if process == process_of(winner) then
        mine[#mine + 1] = lost
    else
        call('HSET', inbox_key(process), held.s, lost)
        nudged[process] = true
    end
end

local function nudge()
    for process in pairs(nudged) do
        call('PUBLISH', prefix .. ':n:' .. process, '')
    end
end

local function is_limited(policy)
    return type(policy) == 'table' and (policy.l or policy.e)
end

-- How many are beyond the limit with one more, who displaces those of the same device. On
-- probation are some who will do the same to others.
local function excess_over(policy, entry, rivals, others)
    if not is_limited(policy) then
        return 0
    end
    local count, devices = 0, {}
    for _, list in ipairs({ rivals, others }) do
        for _, held in ipairs(list) do
            if held.d == '' or (held.d ~= entry.d and not devices[held.d]) then
                count = count + 1
                devices[held.d] = held.d ~= ''
            end
        end
    end
    return math.max(count + 1 - math.max(is_limited(policy), 1), 0)
end

-- In how many milliseconds it makes sense to look again whether an incarnation has died: nil,
-- nothing speaks for that. It was due to renew its lease and has not, or nobody listens where
-- its process does.
local function doubt(incarnation)
    local till = lease(incarnation)
    local is_late = till - now < arguments.doubted
    if not is_late and arguments.listens then
        local ok, heard = pcall(call, 'PUBSUB', 'NUMSUB', prefix .. ':n:' .. process_of(incarnation))
        is_late = ok and heard[2] == 0
    end
    return is_late and math.max(math.min(math.max(till, hold) + 1 - now, arguments.again), 1) or nil
end

-- What a newcomer is told who would fit if all were gone who may be: when to try again,
-- as a negative number; else 0.
local function refusal(policy, entry, rivals, others)
    local kept, again = { {}, {} }, nil
    for number, list in ipairs({ rivals, others }) do
        for _, held in ipairs(list) do
            local wait = doubt(held.i)
            if wait then
                again = math.min(again or wait, wait)
            else
                table.insert(kept[number], held)
            end
        end
    end
    return again and excess_over(policy, entry, kept[1], kept[2]) == 0 and -again or 0
end

-- The same for one whose user has as many sockets as any may have: `room` is what is left.
local function refusal_at_bound(user, room)
    local again
    for process, count in string.gmatch(call('HGET', user_key(user), 'p') or '', '(%S+)=(%d+)') do
        local wait = doubt(call('HGET', OWNER, process) or '')
        if wait then
            again, room = math.min(again or wait, wait), room + count
        end
    end
    return again and room > 0 and -again or 0
end

-- Who of `rivals` has to go for `entry`, and why.
local function losers_to(policy, entry, rivals)
    local losers, excess = {}, excess_over(policy, entry, rivals, {})
    for _, held in ipairs(rivals) do
        if policy == 'r' or (entry.d ~= '' and held.d == entry.d) then
            losers[#losers + 1] = { held, 'r' }
        elseif excess > 0 then
            excess = excess - 1
            losers[#losers + 1] = { held, 'l' }
        end
    end
    return losers
end

local function next_due()
    if hold > now then
        return hold - now
    end
    local first
    local node = call('ZRANGE', NODES, 0, 0, 'WITHSCORES')
    if node[1] then
        first = tonumber(node[2]) + 1
    end
    local due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
    if due[1] and (not first or tonumber(due[2]) < first) then
        first = tonumber(due[2])
    end
    if not first then
        return -1
    end
    return math.max(first - now, 0)
end

-- The incarnations are others: another number, and perhaps another version.
local function members_changed()
    call('INCR', MEMBERS)
    agree_on_version()
end

-- A node that lives and has no version in common with the one that joins, if there is one.
local function stranger()
    for _, one in ipairs(call('ZRANGEBYSCORE', NODES, '(0', '+inf')) do
        local is_past = process_of(one) == arguments.process
            or (not arguments.known and node_of(one) == arguments.node)
        local oldest, newest = versions_of(one)
        if not is_past and alive(one)
            and (newest < arguments.proto.min or oldest > arguments.proto.max) then
            return { 0, node_of(one), oldest, newest }
        end
    end
end

-- Above each operation: its arguments -> its answer, a list. `0`: the incarnation does not
-- hold its lease. u: a user, y: its type, s: a socket; an entry is as in `add`, a loser as in
-- `loser`, and of the asking node. `due`: in how many milliseconds something is to be
-- maintained, -1 for nothing. Entries, losers and sockets are JSON. `edge`: the last one.
local operations = {}

-- Those who are to ask a newcomer whether it lives hear of it at once: its neighbours in the
-- ring of all, by the ends of their names.
local function nudge_neighbours(incarnation)
    local ring, at = {}, nil
    for _, one in ipairs(call('ZRANGEBYSCORE', NODES, string.format('%.0f', now), '+inf')) do
        ring[#ring + 1] = string.match(one, '[^.]*$') .. ' ' .. one
    end
    table.sort(ring)
    for index, one in ipairs(ring) do
        if string.sub(one, -#incarnation - 1) == ' ' .. incarnation then
            at = index - 1
        end
    end
    for step = 1, at and math.min(NEIGHBOURS, #ring - 1) or 0 do
        for _, index in ipairs({ (at + step) % #ring, (at - step) % #ring }) do
            local near = string.match(ring[index + 1], ' (.*)$')
            if near ~= incarnation then
                nudged[process_of(near)] = true
            end
        end
    end
    nudge()
end

-- Behind which edge a node begins to read, and its number: behind the last, or, where it starts,
-- behind the last that the line has been told of. Whoever was to say the ones between has ended
-- before that, and nobody else may be there.
local function place_of_a_reader(is_first)
    local number = tonumber(call('GET', prefix .. ':edge') or 0)
    -- Not set: nothing of it goes by the line.
    local said = is_first and tonumber(call('HGET', prefix .. ':line', 'x') or nil)
    local begun = tonumber(string.match(call('GET', FROM) or '', ' (%d+)$') or 0)
    -- What is from before this life is no news.
    local unsaid = said and said >= begun and number - said or 0
    -- Changes of devices are between them, and have no number.
    local count = unsaid > 0 and math.min(unsaid * 2 + 16, MOST_UNSAID) or 1
    local last = call('XREVRANGE', EDGES, '+', '-', 'COUNT', count)
    if unsaid > 0 then
        for _, entry in ipairs(last) do
            if entry[2][1] == 'n' and tonumber(entry[2][2]) == said then
                return entry[1], said
            end
        end
        if #last < count and said == 0 then
            return '0-0', 0
        end
    end
    return last[1] and last[1][1] or '0-0', number
end

-- Nothing of the stream is news that was written before now. A life has a name of its own: so it is
-- known from one before when this memory comes back once more.
local function begin_life()
    local last = call('XREVRANGE', EDGES, '+', '-', 'COUNT', 1)
    call('SET', FROM, (last[1] and last[1][1] or '0-0') .. ' ' .. (call('GET', prefix .. ':edge') or 0))
    begin_anew()
    local names, before = { arguments.known }, call('GET', EPOCH)
    if before ~= arguments.fresh then
        names = { before, arguments.known }
    end
    for name in string.gmatch(call('GET', SUCCESSORS) or '', '%S+') do
        names[#names + 1] = name
    end
    call('SET', SUCCESSORS, table.concat(names, ' ', 1, math.min(#names, KEPT_NAMES)))
    call('SET', EPOCH, arguments.fresh)
end

-- Whether this life is known to follow the one of that name.
local function succeeds(name)
    local names = ' ' .. (call('GET', SUCCESSORS) or '') .. ' '
    return string.find(names, ' ' .. name .. ' ', 1, true) ~= nil
end

-- { process, node, fresh, secret, ttl, info, proto = { min, max }, known, living, rev }
--   -> 1, incarnation, epoch, secret, edge, its number, version, the edge after which this life began,
--      its number | 0, node, its min, its max
function operations.join()
    local other = stranger()
    if other then
        return other
    end
    most = math.floor(arguments.ttl * 2 / 5)
    write_clock()
    watch_run(arguments.ttl)
    call('SET', EPOCH, arguments.fresh, 'NX')
    call('SET', prefix .. ':secret', arguments.secret, 'NX')
    stay_above(arguments.rev)
    if arguments.known and arguments.known ~= call('GET', EPOCH) then
        -- This may be an old memory that has come back.
        if not succeeds(arguments.known) then
            begin_hold(arguments.ttl, true)
            begin_life()
        end
        if hold > now then
            local expected = tonumber(call('GET', EXPECTED) or 0)
            call('SET', EXPECTED, math.max(expected, arguments.living))
        end
    end
    local process = arguments.process
    for _, incarnation in ipairs(call('ZRANGE', NODES, 0, -1)) do
        if process_of(incarnation) == process then
            call('SREM', COMPLETE, incarnation)
        elseif not arguments.known and node_of(incarnation) == arguments.node then
            call('SREM', COMPLETE, incarnation)
            call('ZADD', NODES, 0, incarnation)
        end
    end
    local incarnation = process .. '.' .. arguments.fresh
    call('ZADD', NODES, now + arguments.ttl, incarnation)
    call('HSET', INFO, incarnation, arguments.info)
    call('HSET', OWNER, process, incarnation)
    members_changed()
    nudge_neighbours(incarnation)
    local last, reached = place_of_a_reader(not arguments.known)
    local from, number = string.match(call('GET', FROM) or '', '^(%S+) (%S+)$')
    return {
        1, incarnation, call('GET', EPOCH), call('GET', prefix .. ':secret'), last, reached,
        tonumber(call('GET', VERSION) or 0), from or '0-0', tonumber(number or 0),
    }
end

-- { incarnation, ttl, done = { s }, complete = hold, rev }
--   -> 0 | 1, { loser }, due, rank, nodes that live, hold | 0, number of the members,
--      version, how often something was set aside
function operations.renew()
    watch_run(arguments.ttl)
    local incarnation = arguments.incarnation
    if not owns(incarnation) then
        return { 0 }
    end
    stay_above(arguments.rev)
    call('ZADD', NODES, now + arguments.ttl, incarnation)
    call('HDEL', SUSPECTS, incarnation)
    local inbox = inbox_key(process_of(incarnation))
    for _, socket in ipairs(arguments.done) do
        call('HDEL', inbox, socket)
    end
    complete(incarnation, arguments.complete)
    local losers, told = {}, call('HGETALL', inbox)
    for i = 1, #told, 2 do
        if decode(told[i + 1], 'loser') then
            losers[#losers + 1] = told[i + 1]
        else
            call('HDEL', inbox, told[i])
        end
    end
    return {
        1, losers, next_due(), call('ZRANK', NODES, incarnation),
        call('ZCOUNT', NODES, string.format('%.0f', now), '+inf'), hold > now and hold or 0,
        tonumber(call('GET', MEMBERS) or 0), tonumber(call('GET', VERSION) or 0),
        tonumber(call('GET', prefix .. ':unread') or 0),
    }
end

-- Whether a suspicion, { since when, said last }, was held to the end of the window, and still is.
local function is_firm(said)
    return said[2] - said[1] >= arguments.window and now - said[2] <= arguments.lasts
end

-- How many of those who live, and were not given up themselves, could suspect a process.
local function count_jury(accused, all)
    local count = 0
    for _, one in ipairs(call('ZRANGEBYSCORE', NODES, string.format('%.0f', now), '+inf')) do
        local process, is_given_up = process_of(one), false
        for _, said in pairs(all[one] or {}) do
            is_given_up = is_given_up or is_firm(said)
        end
        if process ~= accused and not is_given_up and call('HGET', OWNER, process) == one then
            count = count + 1
        end
    end
    return count
end

-- { incarnation, whom, again, window, lasts } -> 0 | 1, 0: it was dead | 1: open | 2: refuted | 3: it ends
function operations.suspect()
    local by, whom = arguments.incarnation, arguments.whom
    local accused, all = process_of(whom), {}
    if not owns(by) then
        return { 0 }
    elseif hold > now then
        return { 1, 2 }
    elseif lease(whom) < now then
        return { 1, 0 }
    end
    local raw = call('HGETALL', SUSPECTS)
    for i = 1, #raw, 2 do
        all[raw[i]] = decode(raw[i + 1], 'suspicion')
    end
    local mine = all[whom] and all[whom][by]
    if arguments.again and not mine then
        return { 1, 2 }
    end
    all[whom] = all[whom] or {}
    local is_held = mine and now - mine[2] <= arguments.lasts
    all[whom][by] = { is_held and mine[1] or now, now }
    call('HSET', SUSPECTS, whom, cjson.encode(all[whom]))
    nudged[accused] = true
    nudge()
    local firm = 0
    for one, said in pairs(all[whom]) do
        if is_firm(said) and alive(one) and process_of(one) ~= accused then
            firm = firm + 1
        end
    end
    if firm < math.min(JURY, count_jury(accused, all)) then
        return { 1, 1 }
    end
    for _, one in ipairs(call('ZRANGE', NODES, 0, -1)) do
        if process_of(one) == accused then
            call('ZADD', NODES, 0, one)
            call('SREM', COMPLETE, one)
            call('HDEL', SUSPECTS, one)
        end
    end
    members_changed()
    return { 1, 3 }
end

-- Operations of an incarnation that have a number. Each is done once, and answered again when
-- it is said again: nobody may know whether it was done.
local numbered = {}

local function once(name)
    local incarnation, number = arguments.incarnation, arguments.number
    if not owns(incarnation) then
        return { 0 }
    end
    call('HDEL', SUSPECTS, incarnation)
    local said = call('HGET', SAID, incarnation)
    local last = said and string.match(said, '^%d+')
    if last and number <= tonumber(last) then
        -- A smaller one comes too late.
        if number < tonumber(last) then
            return { 0 }
        end
        local ok, answer = pcall(cmsgpack.unpack, string.sub(said, #last + 2))
        if ok and type(answer) == 'table' then
            return answer
        end
    end
    local answer = numbered[name](incarnation)
    tell_moves()
    call('HSET', SAID, incarnation, string.format('%.0f ', number) .. cmsgpack.pack(answer))
    return answer
end


local function connect(incarnation, entry)
    local user, kind, policy = entry.u, entry.y, entry.p
    local rivals, others = rivals_of(user, kind, entry)
    local losers, state = losers_to(policy, entry, rivals), entry.m and get_state(user, kind)
    -- Its client goes on with that one, which is over, whatever its node says of it and when.
    local earlier = entry.f and get_entry(user, entry.f)
    local goes_on = earlier and earlier.y == kind
    local room = state and entry.m + #losers + (goes_on and 1 or 0) - state[3] or 1
    if type(policy) == 'table' and policy.l and excess_over(policy, entry, rivals, others) > 0 then
        return refusal(policy, entry, rivals, others)
    elseif room < 1 then
        return refusal_at_bound(user, room)
    end
    add(incarnation, user, kind, entry, false, #losers > 0 and policy or nil)
    if goes_on then
        remove(user, entry.f)
    end
    return #losers > 0 and 2 or 1
end

-- `f`: the socket with which its client goes on, if it does.
-- { incarnation, number, newcomers = { u, y, entry, f } } -> 0 | 1, { 0: refused | 1 | 2: on probation }
function numbered.connect(incarnation)
    local answers = {}
    for number, entry in ipairs(arguments.newcomers) do
        -- A fault of the registry keeps nobody out.
        answers[number] = attempt(entry.u, connect, incarnation, entry) or 1
    end
    return { 1, answers }
end

local function establish(incarnation, arrival, mine)
    local user, kind = arrival.u, arrival.y
    local entry = get_entry(user, arrival.s)
    if not (entry and entry.p and entry.i == incarnation and entry.y == kind) then
        return
    end
    local policy, rivals = entry.p, rivals_of(user, kind, entry)
    if policy.l and excess_over(policy, entry, rivals, {}) > 0 then
        -- Those that were said again meanwhile were there before.
        local last = rivals[#rivals]
        remove(user, entry.s)
        settle(user, kind, 0)
        mine[#mine + 1] = loser(entry.s, 'l', last.d, last.i)
    else
        put_entry(incarnation, user, kind, entry)
        for _, lost in ipairs(losers_to(policy, entry, rivals)) do
            oust(user, lost[1], lost[2], entry, incarnation, mine)
        end
    end
end

-- { incarnation, number, arrivals = { u, y, s } } -> 0 | 1, { loser }
function numbered.establish(incarnation)
    local mine = {}
    for _, arrival in ipairs(arguments.arrivals) do
        attempt(arrival.u, establish, incarnation, arrival, mine)
    end
    nudge()
    return { 1, mine }
end

-- Whether a user was announced before memory was lost, and nobody has to be told. When the hold is
-- over, whoever was not said in it is offline for all others: only those are believed then of whom
-- nothing is known and who have gone, so that their going is told.
local function is_believed(restored)
    local is_unknown = not get_state(restored.u, restored.y)
    if restored.b and (blind > now or (is_unknown and #restored.e == 0)) then
        return true
    end
    return restored.c and is_unknown
end

local function believe(user, kind)
    local state = get_state(user, kind) or { 0, 0, 0, 0 }
    if state[1] == 0 then
        state[1] = 1
        state[2] = next_rev(state[2])
    end
    put_state(user, kind, state)
    call('PERSIST', user_key(user))
end

-- Whether somebody goes who was announced as online, and of whom that is lost: nothing is known of
-- the user, or only what was so before.
local function is_lost(departure, state)
    if not departure.b then
        return false
    end
    return not state or (state[1] == 0 and state[3] == 0 and is_of_before(state[2]))
end

local function depart(departure)
    local user, kind = departure.u, departure.y
    if not remove(user, departure.s) then
        local state = get_state(user, kind)
        if is_lost(departure, state) then
            believe(user, kind)
        elseif state then
            recount(user, kind, state)
        end
    elseif departure.g > 0 then
        -- For its other sockets, too, which may go sooner.
        postpone(user, kind, now + departure.g)
    end
    return settle(user, kind, departure.g) and 1 or 0
end

-- { incarnation, number, departures = { u, y, s, g = grace, b = announced } }
--   -> 0 | 1, { 1: the user is settled later | 0 }
function numbered.depart()
    local linger = {}
    for number, departure in ipairs(arguments.departures) do
        linger[number] = attempt(departure.u, depart, departure) or 0
    end
    return { 1, linger }
end

-- Finds a place for a socket that lives already: the later one wins, as if all had
-- come in the order in which they did. Returns how it lost, or nothing.
local function contend(incarnation, user, kind, entry, mine)
    local rivals = rivals_of(user, kind, entry)
    local policy = entry.p
    local function same(held)
        return policy == 'r' or (entry.d ~= '' and held.d == entry.d)
    end
    local others = {}
    for _, held in ipairs(rivals) do
        if not same(held) then
            others[#others + 1] = held
        elseif is_before(entry, held) then
            return loser(entry.s, 'r', held.d, held.i)
        end
    end
    local out = {}
    local max = is_limited(policy) and math.max(is_limited(policy), 1) or math.huge
    while #others >= max do
        local index = policy.e and 1 or #others
        local rival = others[index]
        local rival_goes
        if policy.e then
            rival_goes = is_before(rival, entry)
        else
            rival_goes = is_before(entry, rival)
        end
        if not rival_goes then
            return loser(entry.s, 'l', rival.d, rival.i)
        end
        out[#out + 1] = table.remove(others, index)
    end
    for _, held in ipairs(rivals) do
        if same(held) then
            oust(user, held, 'r', entry, incarnation, mine)
        end
    end
    for _, held in ipairs(out) do
        oust(user, held, 'l', entry, incarnation, mine)
    end
end

-- All nodes are told what a user is, once that is settled: some may have read what is not so any
-- more, before memory was lost.
local function tell_again(user, kind)
    local state = get_state(user, kind) or { 0, 0, 0, 0 }
    if (state[1] == 1) ~= (state[3] > 0) then
        return
    end
    -- What was said of who is gone in an earlier life of the registry is older, and what was said of
    -- anybody just before this run.
    if is_of_before(state[2]) then
        state[2] = next_rev(state[2])
        put_state(user, kind, state)
    end
    write_edge(user, kind, state[1], state[2], {}, room_names(state))
    if state[1] == 0 then
        forget_later(user)
    end
end

local function restore(incarnation, restored, inbox, lost)
    local user, kind = restored.u, restored.y
    local believed = is_believed(restored)
    if believed then
        local is_lost = restored.c and hold <= now and not get_state(user, kind)
        believe(user, kind)
        if is_lost then
            -- Nobody is told, but nodes that were told meanwhile that nobody is there know better.
            write_edge(user, kind, 1, get_state(user, kind)[2], {}, {})
        end
    end
    for _, entry in ipairs(restored.e) do
        local told, held = call('HGET', inbox, entry.s), get_entry(user, entry.s)
        if told then
            lost[#lost + 1] = told
        elseif held and alive(held.i) and (not held.p or held.i == incarnation) then
            -- It has kept its place, or its probation; only its incarnation or its rooms
            -- are new.
            add(incarnation, user, kind, entry, believed, held.p)
        else
            local how = contend(incarnation, user, kind, entry, lost)
            if how then
                lost[#lost + 1] = how
            else
                add(incarnation, user, kind, entry, believed)
            end
        end
    end
    if restored.c then
        local state = get_state(user, kind)
        if state then
            recount(user, kind, state)
        end
    end
    settle(user, kind, 0)
    if restored.t then
        tell_again(user, kind)
    end
end

-- { incarnation, number, users = { u, y, b = believed, c = recount, t = retold, e = { entry } } }
-- -> 0 | 1, { loser }
function numbered.restore(incarnation)
    local inbox, lost = inbox_key(process_of(incarnation)), {}
    for _, restored in ipairs(arguments.users) do
        attempt(restored.u, restore, incarnation, restored, inbox, lost)
    end
    nudge()
    return { 1, lost }
end

-- { incarnations } -> 1
function operations.retire()
    for _, incarnation in ipairs(arguments.incarnations) do
        call('SREM', COMPLETE, incarnation)
        call('ZADD', NODES, 'XX', 0, incarnation)
    end
    members_changed()
    return { 1 }
end

-- { limit, grace, ttl } -> entries swept, { incarnation that ended }, due
function operations.maintain()
    watch_run(arguments.ttl)
    if hold > now then
        return { 0, {}, hold - now }
    end
    call('DEL', BLIND)
    blind = 0
    local limit, grace = arguments.limit, arguments.grace
    local swept, ended = 0, {}
    local incarnation = call('ZRANGEBYSCORE', NODES, '-inf', '(' .. string.format('%.0f', now),
        'LIMIT', 0, 1)[1]
    if incarnation then
        local batch, left = {}, limit
        for bucket = 0, BUCKETS - 1 do
            if left == 0 then
                break
            end
            local index = index_key(incarnation, string.format('%02x', bucket))
            local some = call('HRANDFIELD', index, left, 'WITHVALUES')
            for i = 1, #some, 2 do
                local user, kind = split_who(some[i + 1])
                batch[#batch + 1] = { user, kind }
                attempt(user, remove, user, some[i], incarnation)
                unlist(incarnation, string.format('%02x', bucket), some[i])
                left = left - 1
            end
        end
        swept = #batch
        -- Once for all of a user that are gone with it.
        for _, who in ipairs(batch) do
            attempt(who[1], settle, who[1], who[2], grace)
        end
        if left > 0 then
            call('HDEL', SOCKETS, incarnation)
            call('HDEL', SAID, incarnation)
            call('ZREM', NODES, incarnation)
            call('HDEL', INFO, incarnation)
            call('HDEL', SUSPECTS, incarnation)
            members_changed()
            local process = process_of(incarnation)
            if call('HGET', OWNER, process) == incarnation then
                call('HDEL', OWNER, process)
                call('DEL', inbox_key(process))
            end
            ended[1] = incarnation
        end
    end
    local due = call('ZRANGEBYSCORE', DUE, '-inf', string.format('%.0f', now), 'LIMIT', 0, limit)
    for _, who in ipairs(due) do
        call('ZREM', DUE, who)
        local user, kind = split_who(who)
        attempt(user, settle, user, kind, 0)
    end
    tell_moves()
    return { swept, ended, next_due() }
end

-- Whether a user without a socket at a live node is waited for. Sockets of dead nodes count
-- until they are swept, which begins their grace.
local function is_waited_for(user, kind, count)
    local at = tonumber(call('ZSCORE', DUE, join_who(user, kind)) or 0)
    return at > now or (at > 0 and hold > now) or (count > 0 and arguments.grace > 0)
end

-- From now on, changes of a user's devices are told. False: the server has no room for that.
local function tell_of(user)
    local told_until = tonumber(call('HGET', user_key(user), 'w') or 0)
    if told_until >= now + TOLD_AGAIN then
        return true
    end
    return (pcall(call, 'HSET', user_key(user), 'w', string.format('%.0f', now + TOLD_FOR)))
end

-- { incarnation, grace, users } -> 0 | 1, then { 1: in its grace | 0, last seen | 0,
-- { socket, entry, .. }, { type, 1: announced as online | 0, revision, last seen | 0, 1: in its
-- grace | 0, .. }, the number from which on changes of devices are told | -1 } each, of as many of
-- the first as there is time for, and one at least
function operations.look_up()
    if not owns(arguments.incarnation) then
        return { 0 }
    end
    local answers, read, number_now = { 1 }, 0, tonumber(call('GET', DEVICES) or 0)
    for number, user in ipairs(arguments.users) do
        read = read + call('HLEN', user_key(user))
        if number > 1 and read > MAX_LOOKED_UP then
            break
        end
        local all = call('HGETALL', user_key(user))
        local lingers, seen, sockets, announced, online, states = 0, 0, {}, {}, {}, {}
        for i = 1, #all, 2 do
            local field, name, value = string.sub(all[i], 1, 2), string.sub(all[i], 3), all[i + 1]
            if field == 't:' then
                local state = get_state(user, name) or { 0, 0, 0, 0 }
                seen = math.max(seen, state[4])
                states[#states + 1] = { name, state }
                if state[1] == 1 then
                    online[name] = state[3]
                end
            elseif field == 's:' and alive(string.match(value, '^%["([^"]*)"') or '') then
                sockets[#sockets + 1] = name
                sockets[#sockets + 1] = value
            end
        end
        for _, one in ipairs(states) do
            local kind, state, waits = one[1], one[2], 0
            -- Whose the sockets are is known where there is one type.
            local is_asked = #sockets == 0 or #states > 1
            if is_asked and online[kind] and is_waited_for(user, kind, state[3]) then
                lingers, waits = 1, 1
            end
            for _, told in ipairs({ kind, state[1], state[2], state[4], waits }) do
                announced[#announced + 1] = told
            end
        end
        local is_told = next(online) and tell_of(user)
        answers[number + 1] = { lingers, seen, sockets, announced, is_told and number_now or -1 }
    end
    return answers
end

-- The sum of the marks of what there is in a bucket of an incarnation: of users in its index, all
-- entries. `there`: takes them, three items each.
local function sum_of(incarnation, bucket, there)
    local mine = '[' .. cjson.encode(incarnation) .. ','
    local sum, seen, users = 0, {}, prefix .. ':u:'
    local index = call('HGETALL', index_key(incarnation, bucket))
    for i = 2, #index, 2 do
        local user = split_who(index[i])
        local all = seen[user] and {} or call('HGETALL', users .. user)
        seen[user] = true
        for k = 1, #all, 2 do
            local raw = all[k + 1]
            if string.sub(raw, 1, #mine) == mine then
                sum = (sum + (tonumber(number_of(raw), 16) or 0)) % 2 ^ 48
                if there then
                    there[#there + 1] = string.sub(all[k], 3)
                    there[#there + 1] = join_who(user, (decode(raw, 'entry') or {})[2] or '')
                    there[#there + 1] = number_of(raw)
                end
            end
        end
    end
    return sum, #index / 2
end

-- { incarnation, buckets = { bucket, sum } } -> how many of them were looked at,
-- { bucket, { s, whose, number, .. } } of those that differ; numbers and sums are hexadecimal
function operations.audit()
    local incarnation, looked_at, differing = arguments.incarnation, 0, {}
    local read, listed = 0, 0
    for _, asked in ipairs(arguments.buckets) do
        if looked_at > 0 and (read >= MAX_COMPARED or listed >= MAX_LISTED) then
            break
        end
        looked_at = looked_at + 1
        local sum, count = sum_of(incarnation, asked[1])
        read = read + count
        if sum ~= tonumber(asked[2], 16) then
            local there = {}
            sum_of(incarnation, asked[1], there)
            listed = listed + #there / 3
            differing[#differing + 1] = { asked[1], there }
        end
    end
    return { looked_at, differing }
end

-- {} -> { incarnation, milliseconds left of its lease, info, number of sockets } each
function operations.nodes()
    local answer = {}
    local nodes = call('ZRANGE', NODES, 0, -1, 'WITHSCORES')
    for i = 1, #nodes, 2 do
        answer[#answer + 1] = {
            nodes[i], tonumber(nodes[i + 1]) - now, call('HGET', INFO, nodes[i]) or '{}',
            tonumber(call('HGET', SOCKETS, nodes[i]) or 0),
        }
    end
    return answer
end

-- Nobody is taken for gone then until all have had the time to come back; those who are there
-- hear of it at once.
if was_away and hold <= now and call('ZCOUNT', NODES, '(0', '+inf') > 0 then
    begin_hold(math.floor(most * 5 / 2), blind > 0)
    for _, incarnation in ipairs(call('ZRANGEBYSCORE', NODES, '(0', '+inf')) do
        nudged[process_of(incarnation)] = true
    end
    nudge()
end

if numbered[ARGV[1]] then
    return once(ARGV[1])
end
return operations[ARGV[1]]()
