#!/bin/sh
# Runs the given test programs, shows what each prints, and sums their closing lines.
# Exit 1 when a test failed or a program ended without its closing line.
passed=0 failed=0 skipped=0 status=0
for t in "$@"; do
    out=$("$t" 2>&1); code=$?
    printf '%s\n' "$out"
    last=$(printf '%s\n' "$out" | tail -n 1)
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
