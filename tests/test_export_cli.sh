#!/bin/bash
# export/export as a user meets it: its flags, its errors, what it leaves behind. EXPORT names another
# binary. The numbers in its files are test_export.c's business.
cd "$(dirname "$0")/.." || exit 1
export=${EXPORT:-export/export} data=${TENSORLLM_DATA:-../shared/data}
bin=$data/models/stories260K.bin tok=$data/models/tok512.bin
passed=0 failed=0 skipped=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
out=$tmp/out.tbin

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAIL export_cli: $1"; }
done_() { echo "export_cli: $passed passed, $failed failed, $skipped skipped"; [ $failed -eq 0 ]; exit; }

# refuses NAME WORD ARGUMENTS…: exit 1, nothing on stdout, one line on stderr that holds WORD, and no
# file beside those that were there.
refuses() {
    local name=$1 word=$2; shift 2
    local before; before=$(ls -A "$tmp")
    timeout 60 $export "$@" >"$tmp.stdout" 2>"$tmp.stderr" </dev/null; local code=$?
    if [ $code -eq 1 ] && [ ! -s "$tmp.stdout" ] && [ "$(wc -l <"$tmp.stderr")" -eq 1 ] &&
        grep -q -- "$word" "$tmp.stderr" && [ "$before" = "$(ls -A "$tmp")" ]
    then ok; else bad "$name: code $code, $(head -c 300 "$tmp.stderr")"; fi
    rm -f "$tmp.stdout" "$tmp.stderr"
}
# works NAME ARGUMENTS…: exit 0 and a file $out.
works() {
    local name=$1; shift
    rm -f "$out"
    timeout 120 $export "$@" -o "$out" >"$tmp/table" 2>"$tmp/err" </dev/null; local code=$?
    if [ $code -eq 0 ] && [ -s "$out" ] && [ ! -e "$out.part" ]; then ok; else bad "$name: code $code, $(head -c 300 "$tmp/err")"; fi
}

# narrow NAME: the table of what was done has no line that 80 columns would break; the last one names the file.
narrow() { [ "$(sed '$d' "$tmp/table" | awk 'length($0) > 80' | wc -l)" -eq 0 ] && ok || bad "$1: wider than 80 columns: $(cat "$tmp/table")"; }

# --- flags
[ "$($export -h | wc -l)" -le 36 ] && ok || bad "-h has more than 36 lines"
[ "$($export -h | awk 'length($0) > 80' | wc -l)" -eq 0 ] && ok || bad "-h is wider than 80 columns"
$export --version | grep -q kernels && ok || bad "--version"
refuses "no source" "no SOURCE"
refuses "no output" "-o OUT" x
refuses "unknown flag" "--nonsense" x -o "$out" --nonsense
refuses "flag without a value" "--scheme needs" x -o "$out" --scheme
refuses "a flag in place of a value" "--report needs a value, and -q is a flag" x -o "$out" --report -q
refuses "two sources" "more than one" x y -o "$out"
for f in "--keep 0" "--keep 1.5" "--keep x" "--keep nan" "--keep -1" "--rank x" "--rank 5,0" "--rank 1,2,3,4" "--rank a,b" "--rank 5," \
    "--rank 99999999999999999999,1" "--type q5_0" "--type int" "--method als" "--sweeps -1" "--sweeps x" "-t 0" "-t 257" \
    "--size 0" "--size 5x" "--loss 0" "--loss x" "--calib-tokens 5" "--calib-window x" "--seed 0" "--windows 0" "--sweep 0.5" "--sweep 2,x"; do
    refuses "bad value $f" "${f% *}" x -o "$out" $f
done
refuses "keep and rank" "one of them" x -o "$out" --keep 0.5 --rank 8,8
refuses "size and loss" "one of them" x -o "$out" --size 1M --loss 0.1
refuses "a loss without gradients" "fisher" x -o "$out" --loss 0.1 --method kl
refuses "calibration of a plain method" "weighted" x -o "$out" --method hooi --calib self
refuses "ranks of U_head by data" "one rank" x -o "$out" --method fisher --rank 8,8
refuses "sweep without a page" "--report" x -o "$out" --sweep 1,2
refuses "windows without a text" "--verify" x -o "$out" --windows 2
refuses "dense and rebuild" "not both" x -o "$out" --dense --rebuild
refuses "dense with a scheme" "no factors" x -o "$out" --dense --scheme qkvo
refuses "sweeps of hosvd" "hooi" x -o "$out" --method hosvd --sweeps 3
refuses "missing source" "nowhere" nowhere -o "$out"
mkdir "$tmp/folder"
refuses "folder without config" "config.json" "$tmp/folder" -o "$out"
: >"$tmp/empty"
refuses "empty source" "empty" "$tmp/empty" -o "$out"
printf 'some text, long enough to hold a header of 28 bytes' >"$tmp/text"
refuses "a text as source" "text" "$tmp/text" -o "$out"

# --- files that broke others
if [ -d "$data/malformed" ]; then
    for f in "$data"/malformed/*.gguf "$data"/malformed/*.bin "$data"/malformed/*.safetensors; do
        rm -f "$out"
        timeout 20 $export "$f" --tokenizer "$tok" -o "$out" >/dev/null 2>"$tmp/err" </dev/null; code=$?
        if [ $code -eq 1 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && [ ! -e "$out" ] && [ ! -e "$out.part" ]
        then ok; else bad "$(basename "$f"): code $code, $(head -c 200 "$tmp/err")"; fi
    done
else skipped=$((skipped + 1)); echo "skip export_cli: malformed files are not here"; fi

if [ ! -f "$bin" ] || [ ! -f "$tok" ]; then
    skipped=$((skipped + 1)); echo "skip export_cli: stories260K is not here"
    done_
fi

# --- what works
for scheme in qkvo qkv+o qk+v+o q+k+v+o qk o v+q; do works "scheme $scheme" "$bin" --tokenizer "$tok" --method hooi --scheme $scheme; done
for type in f32 f16 bf16 q8_0 q4_0 q4_1; do works "type $type" "$bin" --tokenizer "$tok" --type $type --rank 32,8; done
works "hosvd" "$bin" --tokenizer "$tok" --method hosvd --rank 20,6,4 --layers 0,2-3
[ "$(grep -c '^ .*dense' "$tmp/table")" -eq 2 ] && ok || bad "layers 1 and 4 are not said to be dense: $(cat "$tmp/table")"
narrow "the table"
grep -q "20,6,4" "$tmp/table" && ok || bad "the table shows no ranks"
works "full rank" "$bin" --tokenizer "$tok" --scheme qkvo --keep 1
awk '$2 == "qkvo" && $3 + $4 + $5 + $6 < 1e-3 {n++} END {exit n != 5}' "$tmp/table" && ok || bad "full rank has errors: $(cat "$tmp/table")"
works "too large a rank" "$bin" --tokenizer "$tok" --rank 500,500
grep -q "r_head 500 is more than there is, 8 is used" "$tmp/err" && ok || bad "no note: $(cat "$tmp/err")"
works "quiet" "$bin" --tokenizer "$tok" --scheme qkvo -q
[ ! -s "$tmp/table" ] && [ ! -s "$tmp/err" ] && ok || bad "-q prints"
cp "$out" "$tmp/first.tbin"
for threads in 1 2 3; do
    works "$threads threads" "$bin" --tokenizer "$tok" --scheme qkvo -q -t $threads
    cmp -s "$out" "$tmp/first.tbin" && ok || bad "$threads threads give another file"
done
cp "$bin" "$tmp/m.bin"; cp "$tok" "$tmp/tokenizer.bin"
works "tokenizer.bin beside the weights" "$tmp/m.bin" --scheme qkvo
works "rebuilt" "$tmp/first.tbin" --rebuild
grep -q "calibration" "$tmp/table" && bad "a rebuilt file is said to be calibrated" || ok
works "dense" "$bin" --tokenizer "$tok" --dense --type f16
cp "$out" "$tmp/dense.gguf"
works "a GGUF" "$tmp/dense.gguf" --method hooi --scheme qk+o

# --- weighted by data
small="--calib-tokens 256 --calib-window 64"
for method in fisher kl input; do works "method $method" "$tmp/dense.gguf" --method $method --keep 0.6 $small; done
works "the model's own text" "$tmp/dense.gguf" --keep 0.6 $small -q
cp "$out" "$tmp/own.tbin"
works "the same again, three threads" "$tmp/dense.gguf" --keep 0.6 $small -q -t 3
cmp -s "$out" "$tmp/own.tbin" && ok || bad "the same export twice gives other bytes"
works "another seed" "$tmp/dense.gguf" --keep 0.6 $small -q --seed 2
cmp -s "$out" "$tmp/own.tbin" && bad "another seed gives the same bytes" || ok
works "a size" "$tmp/dense.gguf" --size 580k $small
[ "$(wc -c <"$out")" -le 580000 ] && ok || bad "--size 580k wrote $(wc -c <"$out") bytes"
works "a size that hardly asks for anything" "$tmp/dense.gguf" --size $(($(wc -c <"$tmp/dense.gguf") * 99 / 100)) $small
works "wide numbers to narrow ones, within a size that all of them fit" "$tmp/dense.gguf" --type q8_0 --size 100M $small
works "a loss" "$tmp/dense.gguf" --loss 0.05 $small
awk '/nats measured/ {found = 1; if ($(NF - 2) > 0.05) exit 1} END {exit !found}' "$tmp/table" && ok || bad "--loss 0.05: $(tail -3 "$tmp/table")"
works "refitted" "$tmp/dense.gguf" --keep 0.5 --refit $small
refuses "a refit without a text" "calibration" x -o "$out" --method hooi --refit
works "a rank" "$tmp/dense.gguf" --rank 16 --scheme q+k+o $small
works "a rank that blocks cannot have" "$tmp/dense.gguf" --rank 20 --type q8_0 $small
grep -q "note: rank 32 in place of 20" "$tmp/err" && grep -q "note: without --scheme V stays dense" "$tmp/err" && ok || bad "no notes: $(cat "$tmp/err")"
works "LASER by hand" "$tmp/dense.gguf" --scheme none --ffn gate:4:0.25,up:3-4:0.5
narrow "the table of LASER"
works "LASER and Tucker under one budget" "$tmp/dense.gguf" --keep 0.8 --ffn auto $small
cp "$out" "$tmp/hybrid.tbin"
works "the hybrid rebuilt" "$tmp/hybrid.tbin" --rebuild --type f32
for form in cp tucker; do works "TRAWL by $form" "$tmp/dense.gguf" --trawl ffn:0-1/2:$form:0.1,attn:4:$form:0.2; done
refuses "TRAWL of what is factored" "as well" "$tmp/dense.gguf" -o "$out.x" --scheme q --method hooi --trawl attn:4:cp:0.5 -q
refuses "a bad list of TRAWL" "--trawl" "$tmp/dense.gguf" -o "$out.x" --trawl ffn:0-9:cp:0.5
refuses "TRAWL with two steps" "behind the /" "$tmp/dense.gguf" -o "$out.x" --trawl ffn:0-1/2/9:cp:0.5
works "TRAWL with a step beyond all layers" "$tmp/dense.gguf" --trawl ffn:1-3/2147483647:cp:0.1
refuses "an empty list of LASER" "nothing named" "$tmp/dense.gguf" -o "$out.x" --scheme none --ffn ,
refuses "a budget for nothing" "leaves nothing" x -o "$out" --scheme none --keep 0.3
refuses "a seed for a text" "--calib self" x -o "$out" --calib "$tmp/text" --seed 3
refuses "a bad list of LASER" "--ffn" "$tmp/dense.gguf" -o "$out.x" --ffn gate:1
refuses "weighted factors with o tied" "keep o apart" "$tmp/dense.gguf" -o "$out.x" --method fisher --scheme qkvo
refuses "a text too short" "shorter" "$tmp/dense.gguf" -o "$out.x" --calib "$tmp/text" --calib-tokens 256
refuses "no such text" "nowhere" "$tmp/dense.gguf" -o "$out.x" --calib nowhere
refuses "no room in so small a file" "bytes are needed at least" "$tmp/dense.gguf" -o "$out.x" --size 1k $small -q
text=$data/stories/tinystories_valid.txt
if [ -f "$text" ]; then
    head -c 60000 "$text" >"$tmp/story.txt"
    works "a file and its own text" "$tmp/dense.gguf" --calib "self,$tmp/story.txt" $small --verify "$tmp/story.txt" --windows 2 --report "$tmp/page.html" --sweep 1.5,3,900
    grep -q "mean KLD" "$tmp/table" && grep -q "</html>" "$tmp/page.html" && ok || bad "--verify or --report: $(tail -3 "$tmp/table")"
    rm -f "$tmp/page.html"
else skipped=$((skipped + 1)); echo "skip export_cli: no stories to calibrate on"; fi

refuses "a tokenizer for a GGUF" "brings its own" "$tmp/dense.gguf" --tokenizer "$tok" -o "$out.x"
refuses "a text to verify on that is not there" "nowhere" "$tmp/dense.gguf" -o "$out.x" --verify nowhere
refuses "a text beside its own that is not there" "nowhere" "$tmp/dense.gguf" -o "$out.x" --calib self,nowhere $small
refuses "a page that cannot be written" "nowhere/page" "$tmp/dense.gguf" -o "$out.x" --report "$tmp/nowhere/page.html" $small

# --- what must not be lost
cp "$tmp/dense.gguf" "$tmp/source.gguf"
echo "a text" >"$tmp/some.txt"
plain="--method hooi --keep 0.6 -q"
refuses "a page onto the source" "is the source" "$tmp/source.gguf" -o "$out.x" $plain --report "$tmp/source.gguf"
refuses "a page onto the output" "the output of -o" "$tmp/source.gguf" -o "$out.x" $plain --report "$out.x"
refuses "a page onto the output by another name" "the output of -o" "$tmp/source.gguf" -o "$out.x" $plain --report "$tmp/./out.tbin.x"
refuses "a page that the output becomes on the way" "on the way" "$tmp/source.gguf" -o "$out.x" $plain --report "$out.x.part"
refuses "an output that the page becomes on the way" "on the way" "$tmp/source.gguf" -o "$out.x.part" $plain --report "$out.x"
cp "$tmp/source.gguf" "$tmp/source2.gguf.part"
refuses "a source that the output becomes on the way" "is the source" "$tmp/source2.gguf.part" -o "$tmp/source2.gguf" --dense
cmp -s "$tmp/source.gguf" "$tmp/source2.gguf.part" && ok || bad "the source is not what it was"
rm -f "$tmp/source2.gguf.part"
refuses "a page onto a text" "text that is read" "$tmp/source.gguf" -o "$out.x" $plain --verify "$tmp/some.txt" --report "$tmp/some.txt"
refuses "onto a calibration text" "text that is read" "$tmp/source.gguf" -o "$tmp/some.txt" --calib "self,$tmp/some.txt"
cmp -s "$tmp/source.gguf" "$tmp/dense.gguf" && [ "$(cat "$tmp/some.txt")" = "a text" ] && ok || bad "the source or the text was changed"
if command -v flock >/dev/null 2>&1; then
    exec 9>"$tmp/busy.tbin.part"
    flock 9
    refuses "a file that another export writes" "another process is writing" "$tmp/source.gguf" -o "$tmp/busy.tbin" $plain
    exec 9>&-
    $export "$tmp/source.gguf" -o "$tmp/busy.tbin" $plain && ok || bad "a part file that nobody writes any more"
else skipped=$((skipped + 1)); echo "skip export_cli: no flock"; fi
echo old >"$tmp/old.tbin"
$export "$bin" --tokenizer "$tok" --scheme qkvo -q -o "$tmp/old.tbin" && cmp -s "$tmp/old.tbin" "$tmp/first.tbin" && ok || bad "an older file is not replaced"
refuses "onto the source" "is the source" "$tmp/m.bin" -o "$tmp/m.bin"
refuses "onto the tokenizer" "is the source" "$bin" --tokenizer "$tmp/tokenizer.bin" -o "$tmp/tokenizer.bin"
ln "$tmp/m.bin" "$tmp/link.bin"
refuses "onto a link to the source" "is the source" "$tmp/m.bin" -o "$tmp/link.bin"
cmp -s "$tmp/m.bin" "$bin" && ok || bad "the source was changed"
echo '{}' >"$tmp/folder/config.json"
refuses "into the source folder" "part of it" "$tmp/folder" -o "$tmp/folder/config.json"
refuses "a page into the source folder" "part of it" "$tmp/folder" -o "$out.x" --report "$tmp/folder/config.json"
refuses "a .tbin again" "--rebuild" "$tmp/first.tbin" -o "$out.x"
refuses "a dense file rebuilt" "takes a .tbin" "$tmp/dense.gguf" --rebuild -o "$out.x"
refuses "no tokenizer" "--tokenizer" "$bin" -o "$out.x"
refuses "another vocabulary" "dense.gguf" "$bin" --tokenizer "$tmp/dense.gguf" -o "$out.x"
refuses "a layer of --ffn beyond the last" "--ffn: 9-9" "$bin" --tokenizer "$tok" --ffn gate:9:0.5 -o "$out.x"
refuses "layer beyond the last" "--layers" "$bin" --tokenizer "$tok" --layers 3-5 -o "$out.x"
refuses "no such scheme" "--scheme" "$bin" --tokenizer "$tok" --scheme qq -o "$out.x"
refuses "no such folder" "nowhere" "$bin" --tokenizer "$tok" -o "$tmp/nowhere/out.tbin"
refuses "a folder as output" "folder" "$bin" --tokenizer "$tok" -o "$tmp/folder"
[ -e /dev/full ] && refuses "a device as output" "/dev/full" "$bin" --tokenizer "$tok" -o /dev/full
if [ "$(id -u)" -ne 0 ]; then
    chmod 555 "$tmp/folder"
    refuses "a folder that takes no files" "folder/out" "$bin" --tokenizer "$tok" -o "$tmp/folder/out.tbin"
    chmod 755 "$tmp/folder"
fi
for n in 0 1 27 28 100 10000 1056536; do
    head -c $n "$bin" >"$tmp/cut.bin"
    refuses "source cut at $n" "cut.bin" "$tmp/cut.bin" --tokenizer "$tok" -o "$out.x"
done
for n in 10 1000 20000 500000; do
    head -c $n "$tmp/dense.gguf" >"$tmp/cut.gguf"
    refuses "GGUF cut at $n" "cut.gguf" "$tmp/cut.gguf" -o "$out.x"
done
cp "$tmp/first.tbin" "$tmp/keep.tbin"
(ulimit -f 200; $export "$bin" --tokenizer "$tok" --scheme qkvo -q -o "$tmp/keep.tbin" 2>"$tmp/err"); code=$?
[ $code -eq 1 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && cmp -s "$tmp/keep.tbin" "$tmp/first.tbin" && [ ! -e "$tmp/keep.tbin.part" ] &&
    ok || bad "a full disk: code $code, $(cat "$tmp/err")"
if [ -e /dev/full ]; then
    $export "$bin" --tokenizer "$tok" --scheme qkvo -o "$out" >/dev/full 2>"$tmp/err"; code=$?
    [ $code -eq 1 ] && grep -q "standard output" "$tmp/err" && ok || bad "a full standard output: code $code"
fi

# --- interrupted in the middle: a model of zeros, 768 wide, of 8 layers
d=768 layers=8
{ printf '\0\003\0\0' ; printf '\0\003\0\0'; printf '\010\0\0\0'; printf '\014\0\0\0'; printf '\014\0\0\0'; printf '\0\002\0\0'; printf '\010\0\0\0'; } >"$tmp/zero.bin"
truncate -s $((28 + 4 * (512 * d + layers * (2 * d + 7 * d * d) + d + 8 * 64))) "$tmp/zero.bin"
for signal in INT TERM; do
    $export "$tmp/zero.bin" --tokenizer "$tok" --scheme qkvo -q --keep 0.1 -o "$tmp/keep.tbin" 2>"$tmp/err" & pid=$!
    for i in $(seq 100); do [ -e "$tmp/keep.tbin.part" ] && break; sleep 0.1; done
    sleep 0.2
    kill -$signal $pid; wait $pid; code=$?
    [ $code -eq 1 ] && grep -q interrupted "$tmp/err" && cmp -s "$tmp/keep.tbin" "$tmp/first.tbin" && [ ! -e "$tmp/keep.tbin.part" ] &&
        ok || bad "SIG$signal: code $code, $(cat "$tmp/err")"
done
done_
