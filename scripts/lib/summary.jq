# The reports of one step's runs (an array) to one object: medians for what is measured, sums for what must not be.

def median: map(select(. != null)) | sort | if length == 0 then null
  elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def medians: . as $all | if $all[0] == null then null
  else reduce ($all[0] | keys_unsorted[]) as $key ({}; .[$key] = ($all | map(.[$key]) | median)) end;

{
  name: $name,
  mode: .[0].mode, connections: .[0].connections, rate: (map(.rate) | median),
  median: {
    rps: (map(.rps) | median),
    answers_per_s: (map(.answers_per_s) | median),
    latency_us: (map(.latency_us) | medians),
    cpu_us_per_request: (map(.cpu | map_values(.us_per_request)) | medians),
    generator_busy: (map(.generator_busy) | median)
  },
  spread: {rps: (map(.rps) | [min, max])},
  total: {
    requests: (map(.requests) | add), ok_2xx: (map(.ok_2xx) | add), busy_429: (map(.busy_429) | add),
    other: (map(.other | to_entries[]) | group_by(.key) | map({key: .[0].key, value: (map(.value) | add)}) | from_entries),
    bad: (map(.wrong + .malformed + .lost + .hung) | add),
    bad_in_warmup: (map(.warmup | .wrong + .malformed + .lost + .hung) | add),
    unsent: (map(.unsent) | add)
  },
  runs: .
}
