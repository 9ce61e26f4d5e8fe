-- The registry of a cluster: what registry.rs says, as one script. Each call is one
-- operation, and atomic.
--
-- KEYS[1]  the prefix of all keys, with its hash tag
-- ARGV[1]  the operation
-- ARGV[2]  the time in milliseconds; 0: this server's
-- ARGV[3]  its arguments as JSON
--
-- <prefix>:nodes        sorted set: incarnation -> end of its lease; 0: it is dead
-- <prefix>:info         hash: incarnation -> what the node says of itself
-- <prefix>:owner        hash: process -> its incarnation
-- <prefix>:u:USER       hash: s:SOCKET -> entry, t:TYPE -> state
-- <prefix>:i:INC        hash: socket -> whose; what there is to sweep
-- <prefix>:x:PROCESS    hash: socket -> how it lost its place
-- <prefix>:due          sorted set: whose presence is to be looked at -> when
-- <prefix>:edges        stream of edges
-- <prefix>:epoch        a name for the registry's memory
-- <prefix>:secret       what nodes show each other
-- <prefix>:run          the run of the server that was seen last
-- <prefix>:successor    somebody knew another memory before this one
-- <prefix>:hold         until when nobody is taken for gone
-- <prefix>:blind        until when nobody is taken for new either

local call = redis.call
local prefix = KEYS[1]
local now = tonumber(ARGV[2])
local arguments = cjson.decode(ARGV[3])
if now == 0 then
    local time = call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local NODES, INFO, OWNER = prefix .. ':nodes', prefix .. ':info', prefix .. ':owner'
local DUE, EDGES = prefix .. ':due', prefix .. ':edges'
local HOLD, BLIND = prefix .. ':hold', prefix .. ':blind'
local KEPT_EDGES = 65536
local KEPT_ROOMS = 1000
-- For how many seconds a user who is gone is remembered.
local REMEMBERED = 7 * 24 * 3600

local hold = tonumber(call('GET', HOLD) or 0)
local blind = tonumber(call('GET', BLIND) or 0)

local function user_key(user)
    return prefix .. ':u:' .. user
end

local function index_key(incarnation)
    return prefix .. ':i:' .. incarnation
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
    local colon = string.find(who, ':', 1, true)
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

local function begin_hold(ttl, is_blind)
    hold = now + ttl
    call('SET', HOLD, hold)
    if is_blind then
        blind = now + ttl
        call('SET', BLIND, blind)
    end
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
            begin_hold(ttl, true)
        end
    end
    -- Nobody could reach the server for so long that all leases are over.
    if hold <= now and call('ZCOUNT', NODES, '(0', '+inf') > 0
        and call('ZCOUNT', NODES, string.format('%.0f', now), '+inf') == 0 then
        begin_hold(ttl, blind > 0)
    end
end

-- States: whether announced as online, revision, number of sockets, last seen; and, of
-- the rooms whose members were told or will be when the user is, how many of its
-- sockets are in each.
local function get_state(user, kind)
    local raw = call('HGET', user_key(user), 't:' .. kind)
    return raw and cjson.decode(raw)
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
    for room in pairs(wanted) do
        if not old[room] then
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

local function write_edge(user, kind, online, rev, rooms, others)
    local fields = {
        'w', join_who(user, kind), 'o', online, 'r', string.format('%.0f', rev),
        't', string.format('%.0f', now),
    }
    for name, list in pairs({ m = rooms, k = others }) do
        if #list > 0 or name == 'k' then
            fields[#fields + 1] = name
            fields[#fields + 1] = #list > 0 and cjson.encode(list) or '[]'
        end
    end
    call('XADD', EDGES, 'MAXLEN', '~', KEPT_EDGES, '*', unpack(fields))
end

local function forget_later(user)
    local all = call('HGETALL', user_key(user))
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 2) == 's:' then
            return
        end
        local state = cjson.decode(all[i + 1])
        if state[1] == 1 or state[3] > 0 then
            return
        end
    end
    call('EXPIRE', user_key(user), REMEMBERED)
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
        schedule(user, kind, blind)
        return
    end
    if online == 0 and hold > now then
        postpone(user, kind, math.max(hold, now + grace))
        return true
    end
    local due = online == 0 and tonumber(call('ZSCORE', DUE, join_who(user, kind))) or 0
    if online == 0 and (grace > 0 or due > now) then
        postpone(user, kind, now + grace)
        return true
    end
    state[1] = online
    state[2] = math.max(state[2] + 1, now)
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
    local e = cjson.decode(raw)
    return { s = socket, i = e[1], y = e[2], n = e[3], d = e[4], a = e[5], r = e[6], p = e[7] }
end

-- `probation`: the policy by which others go once the socket is there; nil: it has its place.
local function put_entry(incarnation, user, kind, entry, probation)
    local e = { incarnation, kind, entry.n, entry.d, entry.a, entry.r }
    if probation then
        e[6], e[7] = entry.r or {}, probation
    end
    call('HSET', user_key(user), 's:' .. entry.s, cjson.encode(e))
end

-- `entry`: s socket, n namespace, d device, a since, p policy, r rooms. `told`: the
-- members of its rooms know of the user. `probation`: as in `put_entry`.
local function add(incarnation, user, kind, entry, told, probation)
    local before = get_entry(user, entry.s)
    put_entry(incarnation, user, kind, entry, probation)
    call('PERSIST', user_key(user))
    local state = get_state(user, kind) or { 0, 0, 0, 0 }
    local others = room_names(state)
    local new = change_rooms(state, before and before.r, entry.r)
    if not before then
        state[3] = state[3] + 1
    elseif before.i ~= incarnation then
        call('HDEL', index_key(before.i), entry.s)
    end
    put_state(user, kind, state)
    if not before then
        -- Whoever was to come back has.
        call('ZREM', DUE, join_who(user, kind))
    end
    call('HSET', index_key(incarnation), entry.s, join_who(user, kind))
    if state[1] == 1 and not told and #new > 0 then
        write_edge(user, kind, 1, state[2], new, others)
    end
    settle(user, kind, 0)
end

local function remove(user, socket)
    local entry = get_entry(user, socket)
    if not entry then
        return false
    end
    call('HDEL', user_key(user), 's:' .. socket)
    call('HDEL', index_key(entry.i), socket)
    local state = get_state(user, entry.y) or { 0, 0, 0, 0 }
    state[3] = math.max(state[3] - 1, 0)
    state[4] = now
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
-- have their places, and those on probation.
local function rivals_of(user, kind, entry)
    local rivals, others = {}, {}
    local all = call('HGETALL', user_key(user))
    for i = 1, #all, 2 do
        local socket = string.sub(all[i], 3)
        if string.sub(all[i], 1, 2) == 's:' and socket ~= entry.s then
            local e = cjson.decode(all[i + 1])
            if e[2] == kind and e[3] == entry.n and alive(e[1]) then
                local list = e[7] and others or rivals
                list[#list + 1] = { s = socket, i = e[1], y = e[2], n = e[3], d = e[4], a = e[5] }
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

-- Above each operation: its arguments -> its answer, a list. `0`: the incarnation does not
-- hold its lease. u: a user, y: its type, s: a socket; an entry is as in `add`, a loser as in
-- `loser`, and of the asking node. `due`: in how many milliseconds something is to be
-- maintained, -1 for nothing. Entries, losers and sockets are JSON. `edge`: the last one.
local operations = {}

-- { process, node, fresh, secret, ttl, info, known } -> incarnation, epoch, secret, edge, earlier
function operations.join()
    watch_run(arguments.ttl)
    call('SET', prefix .. ':epoch', arguments.fresh, 'NX')
    call('SET', prefix .. ':secret', arguments.secret, 'NX')
    local epoch = call('GET', prefix .. ':epoch')
    if arguments.known and arguments.known ~= epoch and call('SETNX', prefix .. ':successor', 1) == 1 then
        begin_hold(arguments.ttl, true)
    end
    local process, earlier = arguments.process, {}
    for _, incarnation in ipairs(call('ZRANGE', NODES, 0, -1)) do
        if process_of(incarnation) == process then
            earlier[#earlier + 1] = incarnation
        elseif not arguments.known and node_of(incarnation) == arguments.node then
            call('ZADD', NODES, 0, incarnation)
        end
    end
    local incarnation = process .. '.' .. arguments.fresh
    call('ZADD', NODES, now + arguments.ttl, incarnation)
    call('HSET', INFO, incarnation, arguments.info)
    call('HSET', OWNER, process, incarnation)
    local last = call('XREVRANGE', EDGES, '+', '-', 'COUNT', 1)
    return {
        incarnation, epoch, call('GET', prefix .. ':secret'), last[1] and last[1][1] or '0-0', earlier,
    }
end

-- { incarnation, ttl, done = { s } } -> 0 | 1, { loser }, due, rank, hold
function operations.renew()
    watch_run(arguments.ttl)
    local incarnation = arguments.incarnation
    if not owns(incarnation) then
        return { 0 }
    end
    call('ZADD', NODES, now + arguments.ttl, incarnation)
    local inbox = inbox_key(process_of(incarnation))
    for _, socket in ipairs(arguments.done) do
        call('HDEL', inbox, socket)
    end
    local rank = call('ZRANK', NODES, incarnation)
    return { 1, call('HVALS', inbox), next_due(), rank, math.max(hold - now, 0) }
end

-- { incarnation, newcomers = { u, y, entry } } -> 0 | 1, { 0: refused | 1 | 2: on probation }
function operations.connect()
    local incarnation = arguments.incarnation
    if not owns(incarnation) then
        return { 0 }
    end
    local answers = {}
    for number, entry in ipairs(arguments.newcomers) do
        local user, kind, policy = entry.u, entry.y, entry.p
        local rivals, others = rivals_of(user, kind, entry)
        if type(policy) == 'table' and policy.l and excess_over(policy, entry, rivals, others) > 0 then
            answers[number] = 0
        else
            local waits = #losers_to(policy, entry, rivals) > 0
            add(incarnation, user, kind, entry, false, waits and policy or nil)
            answers[number] = waits and 2 or 1
        end
    end
    return { 1, answers }
end

-- { incarnation, arrivals = { u, y, s } } -> 0 | 1, { loser }
function operations.establish()
    local incarnation = arguments.incarnation
    if not owns(incarnation) then
        return { 0 }
    end
    local mine = {}
    for _, arrival in ipairs(arguments.arrivals) do
        local user, kind = arrival.u, arrival.y
        local entry = get_entry(user, arrival.s)
        if entry and entry.p and entry.i == incarnation and entry.y == kind then
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
    end
    nudge()
    return { 1, mine }
end

local function believe(user, kind)
    local state = get_state(user, kind) or { 0, 0, 0, 0 }
    if state[1] == 0 then
        state[1] = 1
        state[2] = math.max(state[2] + 1, now)
    end
    put_state(user, kind, state)
    call('PERSIST', user_key(user))
end

-- { incarnation, departures = { u, y, s, g = grace } } -> 0 | 1, { 1: the user is settled later | 0 }
function operations.depart()
    if not owns(arguments.incarnation) then
        return { 0 }
    end
    local linger = {}
    for number, departure in ipairs(arguments.departures) do
        local user, kind = departure.u, departure.y
        if remove(user, departure.s) and departure.g > 0 then
            -- For its other sockets, too, which may go sooner.
            postpone(user, kind, now + departure.g)
        end
        linger[number] = settle(user, kind, departure.g) and 1 or 0
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

-- { incarnation, users = { u, y, b = believed, e = { entry } } } -> 0 | 1, { loser }
function operations.restore()
    local incarnation = arguments.incarnation
    if not owns(incarnation) then
        return { 0 }
    end
    local inbox, lost = inbox_key(process_of(incarnation)), {}
    for _, restored in ipairs(arguments.users) do
        local user, kind = restored.u, restored.y
        if restored.b then
            believe(user, kind)
        end
        for _, entry in ipairs(restored.e) do
            local told, held = call('HGET', inbox, entry.s), get_entry(user, entry.s)
            if told then
                lost[#lost + 1] = told
            elseif held and alive(held.i) and (not held.p or held.i == incarnation) then
                -- It has kept its place, or its probation; only its incarnation or its rooms
                -- are new.
                add(incarnation, user, kind, entry, restored.b, held.p)
            else
                local how = contend(incarnation, user, kind, entry, lost)
                if how then
                    lost[#lost + 1] = how
                else
                    add(incarnation, user, kind, entry, restored.b)
                end
            end
        end
        settle(user, kind, 0)
    end
    nudge()
    return { 1, lost }
end

-- { incarnations } -> 1
function operations.retire()
    for _, incarnation in ipairs(arguments.incarnations) do
        call('ZADD', NODES, 'XX', 0, incarnation)
    end
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
        local index = index_key(incarnation)
        local batch = call('HRANDFIELD', index, limit, 'WITHVALUES')
        for i = 1, #batch, 2 do
            local user, kind = split_who(batch[i + 1])
            remove(user, batch[i])
            call('HDEL', index, batch[i])
            swept = swept + 1
        end
        -- Once for all of a user that are gone with it.
        for i = 1, #batch, 2 do
            local user, kind = split_who(batch[i + 1])
            settle(user, kind, grace)
        end
        if call('EXISTS', index) == 0 then
            call('ZREM', NODES, incarnation)
            call('HDEL', INFO, incarnation)
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
        settle(user, kind, 0)
    end
    return { swept, ended, next_due() }
end

-- { users } -> { 1: in its grace | 0, last seen | 0, { socket: s, i = process, y, n, d },
-- { y, 1: announced as online | 0, revision, .. } } each
function operations.look_up()
    local answers = {}
    for number, user in ipairs(arguments.users) do
        local all = call('HGETALL', user_key(user))
        local lingers, seen, sockets, announced = 0, 0, {}, {}
        for i = 1, #all, 2 do
            local name, value = string.sub(all[i], 3), cjson.decode(all[i + 1])
            if string.sub(all[i], 1, 2) == 't:' then
                seen = math.max(seen, value[4])
                for _, told in ipairs({ name, value[1], value[2] }) do
                    announced[#announced + 1] = told
                end
                if value[1] == 1 and value[3] == 0 then
                    local at = tonumber(call('ZSCORE', DUE, join_who(user, name)) or 0)
                    if at > now then
                        lingers = 1
                    end
                end
            elseif alive(value[1]) then
                sockets[#sockets + 1] = cjson.encode({
                    s = name, i = process_of(value[1]), y = value[2], n = value[3], d = value[4],
                })
            end
        end
        answers[number] = { lingers, seen, sockets, announced }
    end
    return answers
end

-- { user, except = process }, ARGV[4] = what its other processes are sent -> their number
function operations.tell()
    local told, count = { [arguments.except] = true }, 0
    local all = call('HGETALL', user_key(arguments.user))
    for i = 1, #all, 2 do
        if string.sub(all[i], 1, 2) == 's:' then
            local incarnation = cjson.decode(all[i + 1])[1]
            local process = process_of(incarnation)
            if not told[process] and alive(incarnation) then
                told[process] = true
                count = count + 1
                call('PUBLISH', prefix .. ':n:' .. process, ARGV[4])
            end
        end
    end
    return count
end

-- { incarnation, users, sample } -> { { s, room, .. } .. } each, { s, whose, s, whose .. }
function operations.audit()
    local incarnation, asked = arguments.incarnation, {}
    for number, user in ipairs(arguments.users) do
        local there = {}
        local all = call('HGETALL', user_key(user))
        for i = 1, #all, 2 do
            local entry = string.sub(all[i], 1, 2) == 's:' and cjson.decode(all[i + 1])
            if entry and entry[1] == incarnation then
                local found = { string.sub(all[i], 3) }
                for _, room in ipairs(entry[6] or {}) do
                    found[#found + 1] = room
                end
                there[#there + 1] = found
            end
        end
        asked[number] = there
    end
    return { asked, call('HRANDFIELD', index_key(incarnation), arguments.sample, 'WITHVALUES') }
end

-- {} -> { incarnation, milliseconds left of its lease, info, number of sockets } each
function operations.nodes()
    local answer = {}
    local nodes = call('ZRANGE', NODES, 0, -1, 'WITHSCORES')
    for i = 1, #nodes, 2 do
        answer[#answer + 1] = {
            nodes[i], tonumber(nodes[i + 1]) - now, call('HGET', INFO, nodes[i]) or '{}',
            call('HLEN', index_key(nodes[i])),
        }
    end
    return answer
end

return operations[ARGV[1]]()
