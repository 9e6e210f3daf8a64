# wrk's own results, with the facts of the run and CPU time per answer.

# "name user system" lines to {name: ticks}; processes of one name are added up.
def ticks: split("\n") | map(select(. != "") | split(" ")) | group_by(.[0])
  | map({key: .[0][0], value: (map((.[1] | tonumber) + (.[2] | tonumber)) | add)}) | from_entries;

$wrk[0] as $result
| ($before | ticks) as $before
| ($after | ticks | with_entries(.value = (.value - ($before[.key] // 0)) * $tick_us)) as $used
| ($own | split(" ") | map(tonumber) | add * 1e6) as $own
| $facts + {mode: $mode, connections: ($connections | tonumber), threads: ($threads | tonumber)} + $result
  + {cpu_us_per_request: ($used + {wrk: $own}
      | map_values(if $result.requests > 0 then . / $result.requests * 1000 | round / 1000 else null end))}
