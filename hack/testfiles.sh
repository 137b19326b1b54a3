#!/usr/bin/env bash
# Lists the test files of this module that contain a line matching an extended regular expression, as ./dir/file_test.go.
set -euo pipefail
cd "$(dirname "$0")/.."

files='{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}'
go list -e -f "$files" ./... | { grep . || true; } | xargs -r -d '\n' grep -lE -- "$1" | sed "s|^$PWD/|./|" | sort || true
