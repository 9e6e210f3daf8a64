-- POST /queue with a nonce per request; every 2xx answer must carry the nonce of a request that waits for it.
--
-- wrk does not tell response() which connection an answer came on. What is checked is therefore: the nonce is one that
-- this thread has sent, and no other answer had it before. That finds an answer that was doubled, made up or meant for
-- another thread or program. It does not find two of this thread's connections that have each other's answers:
-- scripts/load.sh checks that as well.

local lib = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "lib.lua")

local threads = {}

-- In the main state: gives each thread the number that its nonces begin with.
function setup(thread)
  table.insert(threads, thread)
  thread:set("prefix", string.format("%06x%02x", lib.run_id(), #threads))
end

function init()
  local marker = string.rep("0", 16)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = lib.body(marker)
  local whole = wrk.format()
  local at = whole:find(marker, 1, true)
  before, after = whole:sub(1, at - 1) .. prefix, whole:sub(at + #marker)
  sent, right, wrong, sample = 0, 0, 0, ""
  -- Nonces that were sent and not answered. A refusal does not say whose it is, so its nonce stays: one number each.
  outstanding = {}
  -- Threads give back numbers and strings only: the counts of other statuses, as "503=1 504=2".
  statuses, others = {}, ""
end

function request()
  sent = sent + 1
  outstanding[sent] = true
  return before .. string.format("%08x", sent) .. after
end

function response(status, _, body)
  if status < 200 or status > 299 then
    statuses[status] = (statuses[status] or 0) + 1
    others = ""
    for code, count in pairs(statuses) do
      others = others .. code .. "=" .. count .. " "
    end
    return
  end
  local head, number = body:match('"nonce":%s*"(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x)"')
  local index = head == prefix and tonumber(number, 16)
  if index and outstanding[index] then
    outstanding[index] = nil
    right = right + 1
  else
    wrong = wrong + 1
    if sample == "" then
      sample = body:sub(1, 200)
    end
  end
end

function done(summary, latency)
  local counts = { right = 0, wrong = 0, other = {} }
  for _, thread in ipairs(threads) do
    counts.right = counts.right + thread:get("right")
    counts.wrong = counts.wrong + thread:get("wrong")
    for code, count in thread:get("others"):gmatch("(%d+)=(%d+)") do
      counts.other[code] = (counts.other[code] or 0) + tonumber(count)
    end
    if thread:get("sample") ~= "" then
      print("a wrong answer: " .. thread:get("sample"))
    end
  end
  lib.report(summary, latency, counts)
end
