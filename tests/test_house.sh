#!/bin/sh
# The house: dependencies run one way, chapters stay literature, files stay within their budgets.
#   core <- tucker <- model <- { tools <- run, export }     tokenizer <- { tools, run, export }
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0

# check NAME OFFENDERS: passes when the second argument is empty.
check() {
    if [ -z "$2" ]; then passed=$((passed + 1)); else
        failed=$((failed + 1)); echo "FAIL house: $1"; printf '%s\n' "$2" | sed 's/^/  /'; fi
}

# includes FILES: "file included" for every #include "…", the path taken from the top of the tree.
includes() {
    for f in "$@"; do
        [ -f "$f" ] || continue
        dir=$(dirname "$f")
        sed -n 's/^ *# *include *"\([^"]*\)".*/\1/p' "$f" | while read -r i; do
            case "$i" in
            ../*) echo "$f $(dirname "$dir")/${i#../}" ;;
            *) echo "$f $dir/$i" ;;
            esac
        done | sed 's: \(\./\)*: :'
    done
}
# may FILES -- PATTERN: lists what the files include beyond the pattern.
may() { includes $1 | grep -Ev " ($2)$"; }

check "core includes core only"          "$(may 'core/*.c core/*.h' 'core/[a-z_0-9]*\.h')"
check "tucker includes core only"        "$(may 'tucker.c tucker.h' '(core/[a-z_]*|tucker)\.h')"
check "model includes tucker and core"   "$(may 'model.c model.h' '(core/[a-z_]*|tucker|model)\.h')"
check "tokenizer includes core only"     "$(may 'tokenizer.c tokenizer.h' '(core/[a-z_]*|tokenizer)\.h')"
check "tools know neither run nor export" "$(may 'tools/*.c tools/*.h' '(core/[a-z_]*|tools/[a-z_]*|tucker|model|tokenizer)\.h')"
check "run and export never meet"        "$(may 'run.c' '(core/[a-z_]*|tools/[a-z_]*|tucker|model|tokenizer)\.h')"
check "export knows neither tools nor run" "$(may 'export/*.c export/*.h' '(core/[a-z_0-9]*|export/[a-z_0-9]*|tucker|model|tokenizer)\.h')"

check "no intrinsics, no conditionals in a chapter" \
    "$(grep -nE '^ *# *(if|ifdef|elif|pragma)|immintrin|arm_neon|__m(128|256|512)' tucker.c model.c tokenizer.c 2>/dev/null)"
check "OpenMP only in core/kernels and core/attend" \
    "$(grep -nE 'pragma omp|omp\.h' $(git ls-files '*.c' '*.h' 2>/dev/null || ls ./*.c core/*.[ch] tools/*.c export/*.c) | grep -vE '^(\./)?core/(kernels|attend)')"
check "only the two mains print errors and exit" \
    "$(grep -nE '(^|[^_a-z])(exit|abort|perror)\(|fprintf\(stderr' tucker.c model.c tokenizer.c core/*.c $(ls export/*.c | grep -v export/export.c))"
check "headers of libc and libm only" \
    "$(grep -nE '^ *# *include *<' $(ls ./*.[ch] core/*.[ch] tools/*.[ch] export/*.[ch] | grep -v '^core/os\.c') | grep -vE '<(assert|ctype|errno|float|inttypes|limits|math|pthread|sched|signal|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|time|unistd|sys/auxv|immintrin|arm_neon)\.h>')"

check "operating systems differ in core/os.c only" \
    "$(grep -nwE '__wasi__|__APPLE__|(fopen|rename|unlink|stat|fstat|opendir|open_memstream|getline|sigaction|mmap|sysconf)\(' $(
        ls ./*.[ch] core/*.[ch] tools/*.[ch] export/*.[ch] | grep -v '^core/os\.c') | grep -vE ':[0-9]+: *//|//.*fopen$')"

# budget FILE LINES
budget() { [ ! -f "$1" ] || [ "$(wc -l <"$1")" -le "$2" ] || echo "$1 has $(wc -l <"$1") lines, its budget is $2"; }
check "files within their budgets" "$(
    budget run.c 700; budget model.h 160; budget model.c 800; budget tucker.h 200; budget tucker.c 800
    budget tokenizer.h 80; budget tokenizer.c 700
    for f in core/*.[ch] tools/*.[ch] export/*.[ch]; do budget "$f" 1000; done)"
check "lines of at most 110 characters" \
    "$(LC_ALL=C awk '{s = $0; gsub(/[\200-\277]/, "", s)} length(s) > 110 {print FILENAME ":" FNR ": " length(s)}' ./*.[ch] core/*.[ch] tools/*.[ch] export/*.[ch])"
check "no path of a machine in the tree" \
    "$(grep -nIE '(^|[^.a-zA-Z_/])/(work|root|home)/' -r --include='*.[ch]' --include='*.md' --include='*.py' --include='*.sh' --include=Makefile . | grep -v tests/test_house.sh)"

echo "house: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
