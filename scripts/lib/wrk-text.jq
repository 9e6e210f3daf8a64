# A result of scripts/wrk.sh to lines for people.

"\(.stack) stack, \(.mode) answers, \(.connections) connections: \(.answers_per_s | round) answers/s",
if .mode == "checked"
then "2xx with a right nonce \(.ok_2xx), 429 \(.busy_429), other \(.other | tojson), wrong \(.wrong)"
else "answers NOT checked; not 2xx or 3xx \(.not_2xx_or_3xx)" end,
"errors: connect \(.connect_errors), read \(.read_errors), write \(.write_errors), timeout \(.timeouts)",
"CPU µs/answer: \([.cpu_us_per_request | to_entries[] | "\(.key) \(.value)"] | join(", "))"
