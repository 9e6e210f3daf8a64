-- What the two request scripts share.

local lib = {}

-- The same body as that of scripts/load.sh.
function lib.body(nonce)
  return '{"action":"get_gift_code","nonce":"' .. nonce .. '"}'
end

-- 24 bits that differ from run to run; one value per run.
local run_id
function lib.run_id()
  run_id = run_id or (os.time() * 131 + math.floor(os.clock() * 1e6)) % 0x1000000
  return run_id
end

-- Writes the results as JSON to the file that WRK_JSON names. Latencies are in microseconds already. `counts` is nil
-- when answers were not checked.
function lib.report(summary, latency, counts)
  local path = os.getenv("WRK_JSON")
  if not path then
    return
  end
  local seconds = summary.duration / 1e6
  local errors = summary.errors
  local parts = {
    string.format('"requests":%d,"seconds":%.3f,"answers_per_s":%.1f', summary.requests, seconds, summary.requests / seconds),
    string.format('"not_2xx_or_3xx":%d', errors.status),
    string.format('"connect_errors":%d,"read_errors":%d,"write_errors":%d,"timeouts":%d',
      errors.connect, errors.read, errors.write, errors.timeout),
    string.format('"latency_us":{"p50":%d,"p90":%d,"p95":%d,"p99":%d,"p99_9":%d,"max":%d}', latency:percentile(50),
      latency:percentile(90), latency:percentile(95), latency:percentile(99), latency:percentile(99.9), latency.max),
  }
  if counts then
    local busy = counts.other["429"] or 0
    counts.other["429"] = nil
    local other = {}
    for code, count in pairs(counts.other) do
      table.insert(other, string.format('"%s":%d', code, count))
    end
    table.insert(parts, string.format('"ok_2xx":%d,"busy_429":%d,"wrong":%d,"other":{%s}',
      counts.right, busy, counts.wrong, table.concat(other, ",")))
  end
  local file = assert(io.open(path, "w"))
  file:write("{", table.concat(parts, ","), "}\n")
  file:close()
end

return lib
