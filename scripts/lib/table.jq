# A result of scripts/load.sh to tab-separated lines.

def whole: if . == null then "-" else round | tostring end;

["step", "due/s", "conns", "2xx/s", "429", "other", "bad", "unsent", "p50 µs", "p90", "p95", "p99", "p99.9", "max", "CPU µs/request"],
(.steps[] | [
  .name, (.rate | whole), .connections, (.median.rps | whole),
  .total.busy_429, ([.total.other[]] | add // 0), .total.bad + .total.bad_in_warmup, .total.unsent,
  (.median.latency_us | (.p50, .p90, .p95, .p99, .p99_9, .max) | whole),
  ([.median.cpu_us_per_request | to_entries[] | "\(.key) \(if .value == null then "?" else .value * 100 | round / 100 end)"] | join(", "))
])
| @tsv
