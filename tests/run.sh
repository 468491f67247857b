#!/bin/sh
# Runs the given test programs, as many at a time as there are cores (JOBS), shows what each printed in
# the given order, and sums their closing lines. Exit 1 when a test failed or a program ended without
# its closing line.
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM
n=0
for t in "$@"; do n=$((n + 1)); printf '%d\n%s\n' $n "$t"; done |
    xargs -n 2 -P "$jobs" sh -c '"$2" >"$0/$1" 2>&1; echo $? >"$0/$1.code"' "$tmp"

passed=0 failed=0 skipped=0 status=0 n=0
for t in "$@"; do
    n=$((n + 1)) code=$(cat "$tmp/$n.code")
    cat "$tmp/$n"
    last=$(tail -n 1 "$tmp/$n" | tr -d '\r')    # Windows ends lines with one
    set -- $(printf '%s\n' "$last" | sed -n 's/^[^:]*: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p')
    if [ $# -ne 3 ]; then
        echo "FAIL $t: ended with code $code and no closing line"
        failed=$((failed + 1)) status=1
        continue
    fi
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
    [ $code -eq 0 ] || status=1
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] || status=1
exit $status
