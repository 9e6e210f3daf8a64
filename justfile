# Everyday commands; `just` lists them.

default:
    @just --list

# Everything in one process, on http://127.0.0.1:8000
dev *flags:
    cargo run --release --locked -- dev {{flags}}

# What has to pass before a commit
check: lint test deny

lint:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

test *filter:
    cargo test --locked {{filter}}

# Licences, advisories, duplicates (needs cargo-deny)
deny:
    cargo deny --locked check

# Write what is made from the code: .env.example and the tables in README.md
docs:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo build --locked --quiet
    thousandx="$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/thousandx"
    "$thousandx" config --env-example > .env.example
    # Replaces what is between <!-- $1:begin --> and <!-- $1:end --> by what the command prints.
    table() {
        awk -v marker="$1" -v command="$thousandx config $2" '
            index($0, "<!-- " marker ":end -->") { inside = 0 }
            !inside { print }
            index($0, "<!-- " marker ":begin -->") { inside = 1; while ((command | getline line) > 0) print line }
        ' README.md > README.md.new
        mv README.md.new README.md
    }
    table codes --markdown-codes
    table settings --markdown
