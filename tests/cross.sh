#!/bin/bash
# The programs and their tests on other machines: built by cross compilers, run under emulators, and their
# text compared with this machine's token for token. Arguments: targets, see the end. What is not installed
# is counted as skipped. QUICK=1: less of what takes long. Ends with a table, for doc/PORTS.md, and one line
# that sums all.
cd "$(dirname "$0")/.." || exit 1
log=$(mktemp) tmp=$(mktemp -d) exe= rows=() passed=0 failed=0 skipped=0
trap 'rm -rf "$log" "$tmp"' EXIT
trap 'exit 130' INT TERM

need() { command -v "$1" >/dev/null 2>&1; }
ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAIL $name: $1"; }
skip() { skipped=$((skipped + 1)); echo "skip $name: $1"; }
same() { cmp -s "$2" "$3" && ok || bad "$1: $(head -c 200 "$2") instead of $(head -c 200 "$3")"; }
# tests PROGRAM…: runs them; what they count is added.
tests() {
    tests/run.sh "$@" | tee "$log" | sed '$d'         # without their sum, which is part of the last line's
    set -- $(tail -n 1 "$log" | tr -dc '0-9 ')
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}
# wrap DIRECTORY RUNNER NAME…: scripts DIRECTORY/NAME.sh that run the programs DIRECTORY/NAME
wrap() {
    local dir=$1 runner=$2; shift 2
    for p in "$@"; do
        printf '#!/bin/sh\nexec %s %s/%s "$@"\n' "$runner" "$PWD/$dir" "$p$exe" >"$dir/$p.sh" && chmod +x "$dir/$p.sh"
    done
}
# Greedy text of each model as ids, what is wrong with a file that is cut, and an export, as here.
story=(-p "Once upon a time, in a land far away" --temp 0 -n 60 --ids)
behaves() {
    local run=$1 export=$2 m
    for m in tbin gguf; do
        ./run models/stories.$m "${story[@]}" >"$tmp/here" 2>/dev/null
        $run models/stories.$m "${story[@]}" >"$tmp/there" 2>/dev/null || bad "a run of stories.$m ends with code $?"
        same "stories.$m, ids" "$tmp/there" "$tmp/here"
    done
    head -c 1000000 models/stories.tbin >"$tmp/cut.tbin"
    $run "$tmp/cut.tbin" -p x >/dev/null 2>"$tmp/err"
    [ $? -eq 1 ] && grep -q "cut.tbin: " "$tmp/err" && ok || bad "a file cut short: $(cat "$tmp/err")"
    [ "$export" ] || return
    export/export models/stories.gguf -o "$tmp/here.gguf" --dense --type q8_0 -q
    for m in 1 2; do                                   # the second time over a file that is there
        $export models/stories.gguf -o "$tmp/there.gguf" --dense --type q8_0 -q || bad "an export ends with code $?"
    done
    same "an export" "$tmp/there.gguf" "$tmp/here.gguf"
    [ -e "$tmp/there.gguf.part" ] && bad "a part file stays"
    rm -f "$tmp"/*.gguf
}
# linux COMPILER EMULATOR TESTS: one of the other processors.
linux() {
    local cc=$1 emulator=$2 dir=build/$name t
    how=$("${2%% *}" --version 2>/dev/null | head -n 1 | sed 's/(.*//')
    need $cc && need "${2%% *}" || { skip "no $cc or ${2%% *}"; return; }
    make -s BUILD=$dir CC=$cc OPENMP=0 CFLAGS="-O2 -g -pthread" LDFLAGS=-static UNITS="$3" units || { bad "does not build"; return; }
    wrap $dir "$emulator" run export/export $(for t in $3; do echo tests/test_$t; done)
    tests $(for t in $3; do echo $dir/tests/test_$t.sh; done)
    behaves $dir/run.sh $dir/export/export.sh
}
units() { ls tests/test_*.c | sed 's:tests/test_\(.*\)\.c:\1:' | grep -Evx "$1"; }

aarch64() {
    local cpu                                          # kernels and quant in both variants
    UNITS=$(units faults)
    [ "$QUICK" ] && UNITS="kernels quant tokenizer util"
    linux aarch64-linux-gnu-gcc "qemu-aarch64 -cpu max" "$UNITS"
    [ -x build/$name/run ] || return
    # A processor without dot products of bytes picks the other variant, and refuses the one it lacks.
    for cpu in cortex-a53:neon max:neondot; do
        qemu-aarch64 -cpu ${cpu%:*} build/$name/run --version | grep -q ", ${cpu#*:} kernels" && ok ||
            bad "the variant of ${cpu%:*}: $(qemu-aarch64 -cpu ${cpu%:*} build/$name/run --version)"
    done
    [ "$QUICK" ] && return                             # both variants were tested above
    wrap build/$name "qemu-aarch64 -cpu cortex-a53" tests/test_kernels tests/test_quant
    tests build/$name/tests/test_{kernels,quant}.sh
}
arm() {
    linux arm-linux-gnueabihf-gcc qemu-arm "gguf json kernels malformed model quant source util"
    [ -x build/$name/run ] || return
    # Beyond 32 bits: a file that its addresses cannot hold, and one that no memory is left for.
    for size in 5G 3500M; do
        cp models/stories.tbin "$tmp/big.tbin" && truncate -s $size "$tmp/big.tbin"
        build/$name/run.sh "$tmp/big.tbin" -p x >/dev/null 2>"$tmp/err"
        [ $? -eq 1 ] && grep -Eq "too large for this machine's addresses|cannot map [0-9]* bytes" "$tmp/err" &&
            ok || bad "a file of $size: $(cat "$tmp/err")"
        rm -f "$tmp/big.tbin"
    done
}
riscv64() {
    local t="gguf json kernels malformed model quant source util"
    [ "$QUICK" ] && t="gguf quant util"
    linux riscv64-linux-gnu-gcc qemu-riscv64 "$t"
}
# Refused when they are built, by name: big-endian machines, and arithmetic of more bits than asked for.
big-endian() {
    local cc none=1
    how="stops the build"
    for cc in s390x-linux-gnu-gcc powerpc64-linux-gnu-gcc; do
        need $cc || continue
        compilers+=" $cc" none=
        make -s BUILD="$tmp/big" CC=$cc OPENMP=0 "$tmp/big/run.o" 2>&1 | grep -q "#error.*needs a little-endian machine" &&
            [ ! -e "$tmp/big/run.o" ] && ok || bad "$cc builds"
    done
    [ -z "$none" ] || skip "no compiler for a big-endian machine"
}
windows() {
    local cc=x86_64-w64-mingw32-gcc dir=build/windows wine=wine t="json kernels model quant source util"
    need wine64 && wine=wine64
    need $cc || { skip "no $cc"; return; }
    make -s BUILD=$dir CC=$cc $dir/run $dir/export/export || { bad "does not build"; return; }
    need $wine || { skip "no wine"; return; }
    how=$($wine --version 2>/dev/null)
    export WINEPREFIX=$PWD/build/wine WINEDEBUG=-all
    exe=.exe wrap $dir $wine run export/export
    $wine wineboot -i >/dev/null 2>&1               # the first start takes long
    behaves $dir/run.sh $dir/export/export.sh
    # Names and text in UTF-8: of a file that is read, of a prompt, of a file that is written.
    mkdir -p "$tmp/ördner" && cp models/stories.gguf "$tmp/ördner/мир.gguf"
    ./run "$tmp/ördner/мир.gguf" -p "Zoë said “é”" --temp 0 -n 8 >"$tmp/here" 2>/dev/null
    $dir/run.sh "$tmp/ördner/мир.gguf" -p "Zoë said “é”" --temp 0 -n 8 >"$tmp/there" 2>/dev/null
    same "UTF-8 arguments" "$tmp/there" "$tmp/here"
    $dir/export/export.sh "$tmp/ördner/мир.gguf" -o "$tmp/ördner/日本.gguf" --dense -q
    cmp -s "$tmp/ördner/日本.gguf" models/stories.gguf || [ -s "$tmp/ördner/日本.gguf" ] && ok || bad "no 日本.gguf"
    $dir/export/export.sh "$tmp/ördner/мир.gguf" -o "$tmp/ördner/../ördner/мир.gguf" --dense -q 2>"$tmp/err"
    grep -q "is the source" "$tmp/err" && ok || bad "the source is written over: $(cat "$tmp/err")"
    # Text on standard input and output is passed on as it is: no \r comes or goes.
    printf 'one\ntwo\n' | $dir/run.sh models/stories.gguf --tokenize - 2>/dev/null | tee "$tmp/ids" |
        $dir/run.sh models/stories.gguf --detokenize - >"$tmp/there" 2>/dev/null
    printf 'one\ntwo\n' | ./run models/stories.gguf --tokenize - | ./run models/stories.gguf --detokenize - >"$tmp/here"
    same "standard input and output" "$tmp/there" "$tmp/here"
    # Programs of tests that need no more than Windows has; and run's and the exporter's as they are here.
    make -s BUILD=$dir CC=$cc $(for t in $t; do echo $dir/tests/test_$t; done) || { bad "tests do not build"; return; }
    exe=.exe wrap $dir $wine $(for t in $t; do echo tests/test_$t; done)
    tests $(for t in $t; do echo $dir/tests/test_$t.sh; done)
    [ "$QUICK" ] || RUN=$dir/run.sh EXPORT=$dir/export/export.sh SIGNALS=0 tests tests/test_cli.sh tests/test_export_cli.sh
    printf 'Once\n\nhello\n' | ./run models/stories.gguf -i --temp 0 -n 9 >"$tmp/here" 2>/dev/null
    printf 'Once\r\n\r\nhello' | $dir/run.sh models/stories.gguf -i --temp 0 -n 9 >"$tmp/there" 2>/dev/null
    same "chat" "$tmp/there" "$tmp/here"
}
musl() {
    need musl-gcc || { skip "no musl-gcc"; return; }
    how="here"
    local dir=build/musl t
    UNITS=$(units faults)
    [ "$QUICK" ] && UNITS="gguf kernels model quant util"
    make -s BUILD=$dir CC=musl-gcc OPENMP=-pthread LDFLAGS=-static UNITS="$UNITS" units || { bad "does not build"; return; }
    tests $(for t in $UNITS; do echo $dir/tests/test_$t; done)
    behaves $dir/run $dir/export/export
}
wasi() {
    local cc="clang --target=wasm32-wasi" dir=build/wasi python=${WASI_PYTHON:-python3}
    echo 'int main(void){return 0;}' | $cc -x c - -o "$tmp/a.wasm" 2>/dev/null || { skip "no clang with a libc for wasm32-wasi"; return; }
    make -s BUILD=$dir CC="$cc" $dir/run $dir/export/export || { bad "does not build"; return; }
    $python tests/wasi.py "$tmp/a.wasm" 2>/dev/null || { skip "no wasmtime package of Python's"; return; }
    how="wasmtime $($python -c 'from importlib.metadata import version; print(version("wasmtime"))')"
    wrap $dir "$python tests/wasi.py" run export/export
    behaves $dir/run.sh $dir/export/export.sh
}

make -s || exit 1
total=(0 0 0)
for name in "$@"; do
    echo "== $name"
    passed=0 failed=0 skipped=0 how="not run" compilers= start=$SECONDS
    $name
    case $name in
    aarch64) c=aarch64-linux-gnu-gcc ;; arm) c=arm-linux-gnueabihf-gcc ;; riscv64) c=riscv64-linux-gnu-gcc ;;
    windows) c=x86_64-w64-mingw32-gcc ;; musl) c=musl-gcc ;; wasi) c=clang ;; *) c=${compilers##* } ;;
    esac
    v=$([ "$c" ] && $c -dumpfullversion -dumpversion 2>/dev/null)
    rows+=("| $name | ${compilers:-$c} $v | $how | $passed passed, $failed failed, $skipped skipped | $(date +%F) | $((SECONDS - start)) s |")
    total=($((total[0] + passed)) $((total[1] + failed)) $((total[2] + skipped)))
done
printf '%s\n' "${rows[@]}"
echo "${total[0]} passed, ${total[1]} failed, ${total[2]} skipped"
[ ${total[1]} -eq 0 ]
