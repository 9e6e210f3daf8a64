# The summaries of `server` and a peer (an array) to a comparison, with ratios made round by round.

def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def rounded: . * 1000 | round / 1000;
def spread: if any(. == null) then null
  else {median: (median | rounded), min: (min | rounded), max: (max | rounded)} end;
# The server's own process; in the embedded stack it is the worker's and the broker's too.
def server_cpu: .cpu | (.server // ."server+worker+broker") | .us_per_request;
def over($b): if . != null and $b != null and $b > 0 then . / $b else null end;

. as [$server, $peer]
| [$server.runs, $peer.runs] | transpose as $rounds
| $facts + {
    ratios: {
      rounds: ($rounds | length),
      rps: ($rounds | map(.[1].rps as $peer | .[0].rps | over($peer)) | spread),
      cpu_us_per_request: ($rounds | map((.[1] | server_cpu) as $peer | .[0] | server_cpu | over($peer)) | spread)
    },
    steps: [$server, $peer]
  }
