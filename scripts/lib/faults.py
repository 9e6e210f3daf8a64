#!/usr/bin/env python3
"""The table of scripts/faults.sh, and the same as JSON.

    faults.py SELECTED ROWS TESTS OUT

SELECTED: the rows that were asked for, as scripts/faults.sh lists them. ROWS: what the tests have measured, one JSON
object a line (tests/support/rows.rs). TESTS: the output of cargo test. OUT: the JSON file to write. Exit code 1 when a
row failed or has no result.
"""

import json
import re
import sys

RUNNING = re.compile(r"^\s*Running (?:unittests )?(\S+)")
RESULT = re.compile(r"^test (\S+) \.\.\. (ok|FAILED)")
TARGET = re.compile(r"^tests/(.+?)(?:/main)?\.rs$")
HEADINGS = ("row", "fault", "what the client saw", "503 ms", "back ms", "bound ms", "permits", "result")


def test_results(lines):
    """(target, name of the test) -> whether it passed."""
    results, target = {}, None
    for line in lines:
        if found := RUNNING.match(line):
            path = found[1]
            target = "lib" if path == "src/lib.rs" else TARGET.sub(r"\1", path)
        elif found := RESULT.match(line):
            results[target, found[1]] = found[2] == "ok"
    return results


def results_of(selected, rows, tests):
    """One result or more for every selected row; each measured line once."""
    seen = set()
    for line in selected:
        name, _, target, part, *texts = (field.strip() for field in line.split("|"))
        if target == "-":
            yield {"row": name, "fault": texts[0], "client": texts[1], "result": "n/a"}
            continue
        passed = {test: ok for (of, test), ok in tests.items() if of == target and part in test}
        measured = [(n, row) for n, row in enumerate(rows) if row["row"] == name and row["test"] in passed]
        if texts:
            ok = bool(passed) and all(passed.values())
            yield {"row": name, "fault": texts[0], "client": texts[1], "result": "ok" if ok else "FAILED"}
        elif not measured:
            yield {"row": name, "fault": f"{target}: {part}", "client": "", "result": "FAILED, nothing was measured"}
        for number, row in measured:
            if not texts and number not in seen:
                seen.add(number)
                skipped = row.pop("skipped")
                ok = row.pop("ok") and passed[row["test"]]
                yield row | {"result": "FAILED" if not ok else f"skipped: {skipped}" if skipped else "ok"}


def cells(result):
    """A row of the table."""
    numbers = (result.get(key) for key in ("refused_ms", "healed_ms", "bound_ms", "permits_left"))
    shown = ("–" if number is None else str(number) for number in numbers)
    return (result["row"], result["fault"], result["client"], *shown, result["result"].splitlines()[0])


def main():
    """Reads, prints, writes."""
    selected_path, rows_path, tests_path, out_path = sys.argv[1:]

    def lines(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line for line in file.read().splitlines() if line.strip()]

    rows = [json.loads(line) for line in lines(rows_path)]
    results = list(results_of(lines(selected_path), rows, test_results(lines(tests_path))))
    table = [HEADINGS, *map(cells, results)]
    widths = [max(map(len, column)) for column in zip(*table)]
    print()
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    failed = sum(result["result"].startswith("FAILED") for result in results)
    skipped = sum(result["result"].startswith(("skipped", "n/a")) for result in results)
    counts = {"passed": len(results) - failed - skipped, "failed": failed, "skipped": skipped}
    with open(out_path, "w", encoding="utf-8") as file:
        json.dump({**counts, "rows": results}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    print("\n{passed} passed, {failed} failed, {skipped} skipped".format(**counts))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
