#!/bin/bash
# What surrounds the two programs fails: nobody reads their output, the disk is full, standard files are
# closed, there is no terminal, a folder takes no files; and two processes share one model. RUN and EXPORT
# name other binaries. (Memory, disks and signals at every call are test_faults.c's.)
cd "$(dirname "$0")/.." || exit 1
run=$(realpath "${RUN:-./run}") export=$(realpath "${EXPORT:-export/export}")
tbin=models/stories.tbin gguf=models/stories.gguf
passed=0 failed=0 skipped=0
tmp=$(mktemp -d) || exit 1
trap 'umount "$tmp/disk" 2>/dev/null; rm -rf "$tmp"' EXIT
chmod 755 "$tmp"

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAIL faults.sh: $1"; }
skip() { skipped=$((skipped + $2)); echo "skip faults.sh: $1"; }
is() { if [ "$2" = "$3" ]; then ok; else bad "$1: got \"$(printf %s "$2" | head -c 300)\", not \"$(printf %s "$3" | head -c 300)\""; fi; }
# says NAME WORD: the last command's $code is 1 and $tmp/err is one line that holds WORD.
says() { if [ $code -eq 1 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -q -- "$2" "$tmp/err"; then ok; else bad "$1: code $code, $(head -c 300 "$tmp/err")"; fi; }

$export $gguf -o "$tmp/good.gguf" --dense -q && ok || bad "an export"

# --- nobody reads on: the end that a closed pipe gives any program, and nothing said
for action in "-p Once -n 400" "-i -p Once -n 400" "--info" "--tokenize README.md"; do
    { $run $gguf $action 2>"$tmp/err"; echo $? >"$tmp/code"; } </dev/null | head -c 1 >/dev/null
    code=$(cat "$tmp/code")
    [ $code -eq 141 ] || { [ $code -eq 0 ] && [ "${action#--}" != "$action" ]; } && ! grep -q "^run: cannot" "$tmp/err" && ok ||
        bad "$action, nobody reads: code $code, $(cat "$tmp/err")"
done
{ $export $gguf -o "$tmp/out.gguf" --dense 2>"$tmp/err"; echo $? >"$tmp/code"; } | true
is "an export whose table nobody reads" "$(cat "$tmp/code")" 141
cmp -s "$tmp/out.gguf" "$tmp/good.gguf" && ! grep -q "^export" "$tmp/err" && ok || bad "its file: $(cat "$tmp/err")"
{ $export $gguf -o "$tmp/out2.gguf" --dense >"$tmp/out"; echo $? >"$tmp/code"; } 2>&1 | true
is "an export whose progress nobody reads" "$(cat "$tmp/code") $(cmp "$tmp/out2.gguf" "$tmp/good.gguf" && echo same)" "0 same"

# --- standard output is full
if [ -e /dev/full ]; then
    for action in "-p Once -n 4" "-i -p Once -n 4 --system x" "--info" "--tokenize README.md" "--perplexity README.md -c 32 --windows 2"; do
        $run $gguf $action >/dev/full 2>"$tmp/err" </dev/null; code=$?
        sed -i '/using plain/d' "$tmp/err"
        says "$action >/dev/full" "standard output"
    done
    $run -h >/dev/full 2>/dev/null && bad "-h >/dev/full" || ok
    $export -h >/dev/full 2>/dev/null && bad "export -h >/dev/full" || ok
else skip "no /dev/full" 7; fi

# --- standard files are closed: their numbers must not be those of a model that is written
for closed in '<&-' '>&-' '2>&-' '<&- >&- 2>&-'; do
    rm -f "$tmp/out.gguf"
    eval "$export $gguf -o $tmp/out.gguf --dense --type q8_0 $closed" >"$tmp/log" 2>&1
    cmp -s "$tmp/out.gguf" "$tmp/good.gguf" && [ ! -e "$tmp/out.gguf.part" ] && ok || bad "an export with $closed"
done
$run $gguf -p Once -n 4 >&- 2>"$tmp/err"; code=$?
says "a run with >&-" "standard output"
$run $gguf -n 4 2>"$tmp/err" <&-; code=$?
says "a run with <&- and no prompt" "standard input"
is "a chat with <&-" "$($run $gguf -i <&- 2>"$tmp/err"; echo $?)" 0

# --- no terminal
if command -v setsid >/dev/null; then
    is "no terminal" "$(setsid -w $run $tbin -p "Once upon a time" --temp 0 -n 5 2>/dev/null </dev/null)" \
        "$($run $tbin -p "Once upon a time" --temp 0 -n 5 2>/dev/null)"
else skip "no setsid" 1; fi

# --- folders and files that may not be read or written, by who is not root
as=
[ "$(id -u)" -eq 0 ] && as="setpriv --reuid=65534 --regid=65534 --clear-groups"
cp "$run" "$tmp/run"; cp "$export" "$tmp/export"; cp $gguf "$tmp/m.gguf"; chmod 755 "$tmp/run" "$tmp/export"
mkdir "$tmp/closed" && echo old >"$tmp/closed/old.gguf" && cp "$tmp/m.gguf" "$tmp/secret.gguf"
chmod 555 "$tmp/closed"; chmod 000 "$tmp/secret.gguf"
if [ -z "$as" ] || $as true 2>/dev/null; then
    for name in new old; do
        $as "$tmp/export" "$tmp/m.gguf" -o "$tmp/closed/$name.gguf" --dense -q 2>"$tmp/err"; code=$?
        says "into a folder that takes no files ($name)" "closed/$name.gguf"
    done
    is "what is in it" "$(ls "$tmp/closed") $(cat "$tmp/closed/old.gguf")" "old.gguf old"
    $as "$tmp/run" "$tmp/secret.gguf" -p x 2>"$tmp/err"; code=$?
    says "a model that may not be read" "secret.gguf"
    printf '{"prompt": "a", "answer": "b"}\n' >"$tmp/items.jsonl"
    $as "$tmp/run" "$tmp/m.gguf" --eval "$tmp/items.jsonl" --eval-out "$tmp/closed/out" 2>"$tmp/err"; code=$?
    says "results into such a folder" "closed/out"
else skip "cannot be anyone but root" 5; fi
chmod 755 "$tmp/closed"

# --- a disk of 1 MB for a file of 2.3
mkdir "$tmp/disk"
if mount -t tmpfs -o size=1m none "$tmp/disk" 2>/dev/null; then
    echo old >"$tmp/disk/out.gguf"
    $export $gguf -o "$tmp/disk/out.gguf" --dense -q 2>"$tmp/err"; code=$?
    says "a full disk" "No space left"
    is "what is on it" "$(ls "$tmp/disk") $(cat "$tmp/disk/out.gguf")" "out.gguf old"
    umount "$tmp/disk"
else skip "nothing may be mounted here" 2; fi

# --- what a killed export left does not stand in the way of the next
echo half >"$tmp/out.gguf.part"
$export $gguf -o "$tmp/out.gguf" --dense -q && cmp -s "$tmp/out.gguf" "$tmp/good.gguf" && [ ! -e "$tmp/out.gguf.part" ] && ok || bad "over an old part file"

# --- two processes, one model in memory
if [ -r /proc/self/smaps ]; then
    mkfifo "$tmp/in1" "$tmp/in2"
    for i in 1 2; do $run $tbin -i -n 12 --temp 0 -t 1 <"$tmp/in$i" >"$tmp/said$i" 2>/dev/null & pid[i]=$!; done
    exec 7>"$tmp/in1" 8>"$tmp/in2"
    echo "Tell me a story." >&7; echo "Tell me a story." >&8
    for i in $(seq 200); do [ -s "$tmp/said1" ] && [ -s "$tmp/said2" ] && [ "$(wc -l <"$tmp/said1")" -gt 0 ] && [ "$(wc -l <"$tmp/said2")" -gt 0 ] && break; sleep 0.1; done
    # of the model's pages: KB in memory, shared with others, and private
    pages() { awk -v f="$tbin" 'index($0, f) {on = 1; next} /^[0-9a-f]+-[0-9a-f]+ / {on = 0}
        on && /^(Rss|Shared_Clean|Private_Dirty):/ {n[$1] += $2} END {print (n["Rss:"] > 1000), (n["Shared_Clean:"] > 1000), n["Private_Dirty:"] + 0}' "/proc/$1/smaps"; }
    is "the first's pages" "$(pages "${pid[1]}")" "1 1 0"
    is "the second's pages" "$(pages "${pid[2]}")" "1 1 0"
    exec 7>&- 8>&-
    wait "${pid[1]}" "${pid[2]}"
    [ -s "$tmp/said1" ] && cmp -s "$tmp/said1" "$tmp/said2" && ok || bad "two processes say different things"
else skip "no /proc/self/smaps" 3; fi

echo "faults.sh: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
