#!/bin/sh
# doc/MATH.md: the tests that it names exist, and it names all of tests/test_math.c; what it says is in a
# file is there; its links lead somewhere; its figures are what doc/figures.awk draws.
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# check NAME OFFENDERS: passes when the second argument is empty.
check() {
    if [ -z "$2" ]; then passed=$((passed + 1)); else
        failed=$((failed + 1)); echo "FAIL math text: $1"; printf '%s\n' "$2" | sed 's/^/  /'; fi
}

text=doc/MATH.md
tr -s '\n ' ' ' <$text | grep -o '\[[a-z_]*: [^]]*\]' | sort -u >"$tmp/named"
check "the text names tests" "$([ -s "$tmp/named" ] || echo none)"
check "the tests it names exist" "$(while IFS= read -r t; do
    file=tests/test_$(echo "$t" | sed 's/^\[\([a-z_]*\):.*/\1/').c
    name=$(echo "$t" | sed 's/^\[[a-z_]*: \(.*\)\]$/\1/')
    grep -qsF "{\"$name\"," "$file" || echo "$file has no $name"
done <"$tmp/named")"
check "it names every test of tests/test_math.c" "$(sed -n 's/^    {"\([^"]*\)",.*/\1/p' tests/test_math.c |
    while IFS= read -r name; do grep -qF "[math: $name]" "$tmp/named" || echo "$name"; done)"

# The table of section 9: | what | `function`, ... | file |
sed -n 's/^| .* | \(`.*`\) | \([a-z/]*\.c\) |$/\2 \1/p' $text | tr -d '`,' >"$tmp/places"
check "functions are in the files it says" "$([ -s "$tmp/places" ] || echo 'no table'
    while read -r file functions; do
        for f in $functions; do grep -qsE "^[A-Za-z].*[ *]$f\(" "$file" || echo "$file: $f"; done
    done <"$tmp/places")"
check "names in code are of the code" "$(grep -o '`[a-zA-Z_]*_[a-zA-Z_]*`' $text | tr -d '`' | sort -u |
    while read -r name; do grep -qw "$name" ./*.[ch] core/*.[ch] export/*.[ch] || echo "$name"; done)"
check "links lead somewhere" "$(grep -o '](\([^)]*\))' $text | sed 's/](\(.*\))/\1/' |
    while read -r to; do [ -e "doc/$to" ] || echo "$to"; done)"

awk -v dir="$tmp" -f doc/figures.awk
for f in "$tmp"/*.svg; do
    name=$(basename "$f")
    check "doc/$name is what doc/figures.awk draws" "$(cmp "$f" "doc/$name" 2>&1)"
    check "doc/$name is shown" "$(grep -q "]($name)" $text || echo "$text does not show it")"
done

echo "math text: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
