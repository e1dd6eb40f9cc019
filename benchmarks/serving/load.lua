-- What wrk sends: `wrk -s load.lua URL -- FOLDER COUNT DISTINCT RATE`.
--
-- FOLDER holds COUNT requests, which are sent in turn: N.head, up to the value of X-Request-ID, and N.tail behind it.
-- DISTINCT 1 gives each request an id of its own, as clients that trace do; 0 sends them all with the same. RATE 0 is a
-- closed loop. Another one is an open loop, which sends that many requests a second.

local ffi = require("ffi")
ffi.cdef("typedef struct { long sec; long usec; } timeval; int gettimeofday(timeval *now, void *zone);")
local timeval = ffi.new("timeval")

local function milliseconds()
  ffi.C.gettimeofday(timeval, nil)
  return tonumber(timeval.sec) * 1e3 + tonumber(timeval.usec) / 1e3
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*all")
  file:close()
  return content
end

local threads = {}
function setup(thread)
  table.insert(threads, thread)
end

local heads, tails, count, distinct = {}, {}, 0, true
local sent, id = 0, 0

-- Of the open loop. Any free connection takes the next arrival of one Poisson process, so that a slow answer delays no
-- later request as long as a connection is free. wrk's timers have milliseconds: arrivals within one are sent together.
-- wrk times an answer from when its request was really sent; `late` counts how many ms after its arrival that was.
local arrivals, first, last = {}, 1, 0
local arrival
late = {}

local function open_loop(rate)
  math.randomseed(milliseconds() % 2^31)
  function delay()
    local now = math.floor(milliseconds())
    arrival = (arrival or now) - math.log(1 - math.random()) * 1e3 / rate
    last = last + 1
    arrivals[last] = math.floor(arrival)
    return math.max(0, arrivals[last] - now)
  end
end

local function note_lateness()
  if first > last then return end -- wrk asks for one request before it begins
  local lateness = math.min(1000, math.max(0, math.floor(milliseconds() - arrivals[first])))
  late[lateness + 1] = (late[lateness + 1] or 0) + 1
  arrivals[first] = nil
  first = first + 1
end

function init(args)
  local folder = args[1]
  count = tonumber(args[2])
  distinct = args[3] == "1"
  for i = 1, count do
    heads[i], tails[i] = read(folder .. "/" .. i .. ".head"), read(folder .. "/" .. i .. ".tail")
  end
  id = math.floor(milliseconds() * 1e3) -- no run repeats the ids of another
  for i = 1, 1001 do late[i] = 0 end
  local rate = tonumber(args[4])
  if rate > 0 then open_loop(rate) end
end

function request()
  if arrival then note_lateness() end
  sent = sent % count + 1
  if distinct then id = id + 1 end
  return heads[sent] .. string.format("%016.0f", id) .. tails[sent]
end

local function lateness_percentile(share)
  local counts = threads[1]:get("late")
  local all, seen = 0, 0
  for i = 1, 1001 do all = all + counts[i] end
  for i = 1, 1001 do
    seen = seen + counts[i]
    if seen >= share * all then return i - 1 end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), bad, lateness_percentile(0.99)))
end
