#!/usr/bin/env bash
# All tests: those of tests/unit, which compute, beside those of tests/root, most of which wait for containers.
# What the first ones print comes when they are done, at the latest before the summary of the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

said=build/test-unit.txt
pytest tests/unit >"$said" 2>&1 &
unit=$!
# An interrupt reaches both; whatever else ends this ends what runs in the background.
trap 'kill "$unit" 2>/dev/null' EXIT

pytest tests/root tests/vm
root=$?
wait "$unit"
unit_status=$?
trap - EXIT
cat "$said"
if ((root)); then
	echo 'tests/root or tests/vm have failed: what they said is above' >&2
	exit "$root"
fi
exit "$unit_status"
