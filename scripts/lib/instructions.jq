# The table of scripts/instructions.sh, with a line that starts with "!" for each of our operations that has become
# dearer or has gone. $now and $before: [{rustc, arch, operations: {"WHAT · WHO": {instructions, allocations}}}];
# without a baseline $before is [{}].

# What may be more before it counts: the hashers' and generators' seeds are random.
def share_max: 1.03;
def instructions_more_max: 4;
def allocations_more_max: 0.01;

def is_own: endswith(" · own");
def is_dearer($old):
  .instructions > $old.instructions * share_max and .instructions > $old.instructions + instructions_more_max
  or .allocations > $old.allocations + allocations_more_max;

$now[0] as $now | $before[0] as $before
| ($before.rustc == $now.rustc and $before.arch == $now.arch) as $comparable
| (if $comparable then $before.operations else {} end) as $old
| ((["operation · by whom", "instructions", "before", "allocations"],
    ($now.operations | to_entries[]
      | [(if .key | is_own then .key else "   \(.key)" end), .value.instructions,
         ($old[.key].instructions // "-"), .value.allocations])) | @tsv),
  (if $before != {} and ($comparable | not) then
    "Not compared: the baseline is of \($before.rustc) on \($before.arch)." else empty end),
  ($now.operations | to_entries[] | select(.key | is_own) | $old[.key] as $was
    | select($was != null) | select(.value | is_dearer($was))
    | "! \(.key): \($was.instructions) → \(.value.instructions) instructions, "
      + "\($was.allocations) → \(.value.allocations) allocations"),
  ($old | keys[] | select(is_own) | select($now.operations[.] == null) | "! \(.) is in the baseline and was not run")
