#!/bin/bash
# ./run as a user meets it: its flags, its errors, its output. RUN and EXPORT name other binaries; SIGNALS=0: of a system
# without signals.
cd "$(dirname "$0")/.." || exit 1
run=${RUN:-./run} export=${EXPORT:-export/export} data=${TENSORLLM_DATA:-../shared/data}
tbin=models/stories.tbin gguf=models/stories.gguf
passed=0 failed=0 skipped=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAIL cli: $1"; }
is() { if [ "$2" = "$3" ]; then ok; else bad "$1: got \"$(printf %s "$2" | head -c 300)\", not \"$(printf %s "$3" | head -c 300)\""; fi; }
skip() { skipped=$((skipped + $2)); echo "skip cli: $1"; }

# refuses NAME WORD COMMAND…: exit 1, nothing on stdout, one line on stderr that holds WORD.
refuses() {
    local name=$1 word=$2; shift 2
    "$@" >"$tmp/out" 2>"$tmp/err" </dev/null; local code=$?
    if [ $code -eq 1 ] && [ ! -s "$tmp/out" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && grep -qi -- "$word" "$tmp/err"
    then ok; else bad "$name: code $code, $(head -c 300 "$tmp/err")"; fi
}

# --- flags and errors
[ "$($run -h | wc -l)" -le 36 ] && ok || bad "-h has more than 36 lines"
[ "$($run -h | awk 'length($0) > 80' | wc -l)" -eq 0 ] && ok || bad "-h is wider than 80 columns"
$run --version | grep -q kernels && ok || bad "--version"
refuses "no model" "no model" $run
refuses "unknown flag" "--nonsense" $run $tbin --nonsense
refuses "flag without a value" "-n needs" $run $tbin -n
for bad_flag in "-n 0" "-n x" "-c 1" "-t 0" "-t 257" "--temp -1" "--top-p 2" "--kv f64" "--cache hot" "-n 99999999999999999999"
do refuses "bad value $bad_flag" "${bad_flag%% *}" $run $tbin -p x $bad_flag; done
refuses "a flag in place of a value" "-p needs a value, and -n is a flag" $run $tbin -p -n 5
refuses "a seed too large" "-s" $run $tbin -p x -s 99999999999999999999
refuses "two models" "more than one" $run $tbin $gguf
refuses "two prompts" "two prompts" $run $tbin -p x -f y
refuses "a file to chat from" "not for a chat" $run $tbin -i -f y
refuses "ids of a chat" "not for a chat" $run $tbin -i --ids
refuses "a system message without a chat" "--system belongs" $run $tbin -p x --system y
refuses "windows of nothing" "--windows belongs" $run $tbin -p x --windows 2
refuses "a prompt for --info" "-p and -f are for text" $run $tbin --info -p x
refuses "two tasks" "one task at a time" $run $tbin --info --bench
refuses "the best of no mask" "--top belongs" $run $tbin -p x --top 3
refuses "missing model" "nowhere.tbin" $run nowhere.tbin -p x
refuses "a folder" "models: is a folder, .*export/export" $run models -p x
refuses "missing prompt file" "nowhere.txt" $run $tbin -f nowhere.txt
: >"$tmp/empty"
refuses "empty model" "empty" $run "$tmp/empty" -p x
for n in 1 4 24 100 1000 100000; do
    head -c $n $tbin >"$tmp/cut.tbin"
    refuses "model cut at $n" "cut.tbin" $run "$tmp/cut.tbin" -p x
done
refuses "context too long" "trained" $run $tbin -p x -c 100000
head -c 100000 /dev/zero | tr '\0' 'a' >"$tmp/long"
refuses "prompt of 100,000 characters" "tokens" $run $tbin -f "$tmp/long"
refuses "prompt beyond -c" "-c" $run $tbin -p "Once upon a time there was a little girl" -c 4

# --- text
story="Once upon a time"
want=$($run $tbin -p "$story" --temp 0 -n 40 2>"$tmp/err")
case "$want" in "$story"*) ok;; *) bad "the prompt is not echoed: $want";; esac
[ "${#want}" -gt 60 ] && ok || bad "a short story: $want"
grep -q "tok/s" "$tmp/err" && ok || bad "no closing line on stderr"
is "one thread" "$($run $tbin -p "$story" --temp 0 -n 40 -t 1 2>/dev/null)" "$want"
is "two threads" "$($run $tbin -p "$story" --temp 0 -n 40 -t 2 2>/dev/null)" "$want"
is "OMP_NUM_THREADS=3" "$(OMP_NUM_THREADS=3 $run $tbin -p "$story" --temp 0 -n 40 2>/dev/null)" "$want"
is "prompt token by token" "$($run $tbin -p "$story" --temp 0 -n 40 -b 1 2>/dev/null)" "$want"
is "dense cache, f32" "$($run $tbin -p "$story" --temp 0 -n 40 --kv f32 --cache dense 2>/dev/null)" "$want"
is "latent cache, f32" "$($run $tbin -p "$story" --temp 0 -n 40 --kv f32 --cache latent 2>/dev/null)" "$want"
printf %s "$story" >"$tmp/prompt"
is "-f" "$($run $tbin -f "$tmp/prompt" --temp 0 -n 40 2>/dev/null)" "$want"
is "standard input" "$($run $tbin --temp 0 -n 40 <"$tmp/prompt" 2>/dev/null)" "$want"
is "--no-echo" "$story$($run $tbin -p "$story" --no-echo --temp 0 -n 40 2>/dev/null)" "$want"
a=$($run $tbin -p "$story" -s 7 -n 40 2>/dev/null) b=$($run $tbin -p "$story" -s 7 -n 40 2>/dev/null)
c=$($run $tbin -p "$story" -s 8 -n 40 2>/dev/null)
is "the same seed" "$a" "$b"
[ "$a" != "$c" ] && ok || bad "seeds 7 and 8 give one text"
[ -n "$($run $tbin -p "" -n 8 2>/dev/null)" ] && ok || bad "an empty prompt"
$run $gguf -p "$story" --temp 0 -n 10 2>/dev/null | grep -q "$story" && ok || bad "the dense GGUF does not run"
[ "$SIGNALS" = 0 ] && skip "no signals here" 2 || {
$run $tbin -p "$story" -n 200 2>/dev/null | head -c 5 >/dev/null; [ "${PIPESTATUS[0]}" -eq 141 ] && ok || bad "a closed stdout"; }
reply=$(printf 'Tell me a story.\nAnother.\n' | $run $tbin -i -n 20 --temp 0 2>/dev/null)
[ -n "$reply" ] && ok || bad "chat says nothing"
head -c 4000 /dev/zero | tr '\0' 'x' >"$tmp/long"
$run $tbin -i <"$tmp/long" >/dev/null 2>"$tmp/err"; is "a message too long for the chat" "$? $(grep -c "tokens, and 512 of the chat's 512 positions are left" "$tmp/err")" "1 1"
is "lines of a chat with CR and NUL" "$(printf 'Tell me\0 a story.\r\nAnother.\r\n' | $run $tbin -i -n 20 --temp 0 2>/dev/null)" "$reply"
is "context filled to the end" "$($run $tbin -p "$story" -c 12 -n 100 2>"$tmp/err" | wc -l | tr -d ' ')" 1
is "which is said" "$(grep -c "all 12 positions of the context are taken" "$tmp/err")" 1

# --- drafts: the draft may be anything of the same vocabulary, the text stays
for tokens in 1 5 15; do
    is "a draft of $tokens" "$($run $tbin -p "$story" --temp 0 -n 40 --draft $gguf --draft-tokens $tokens 2>"$tmp/err")" "$want"
done
is "its line" "$(grep -cE '^\[draft: [0-9]+ tokens proposed, [0-9]+ kept \([0-9.]+ %\), [0-9.]+ tokens a batch\]$' "$tmp/err")" 1
is "a draft of itself" "$($run $gguf -p "$story" --temp 0 -n 40 --draft $gguf 2>/dev/null)" "$($run $gguf -p "$story" --temp 0 -n 40 2>/dev/null)"
is "a draft and token ids" "$($run $tbin -p "$story" --ids --temp 0 -n 40 --draft $gguf 2>/dev/null)" "$($run $tbin -p "$story" --ids --temp 0 -n 40 2>/dev/null)"
is "a draft in chat" "$(printf 'Tell me a story.\nAnother.\n' | $run $tbin -i -n 20 --temp 0 --draft $gguf 2>/dev/null)" "$reply"
is "a draft, drawn, one seed" "$($run $tbin -p "$story" -s 7 -n 40 --draft $gguf 2>/dev/null)" "$($run $tbin -p "$story" -s 7 -n 40 --draft $gguf -t 1 2>/dev/null)"
is "a draft to the last position" "$($run $tbin -p "$story" --temp 0 -c 12 -n 100 --draft $gguf 2>/dev/null)" "$($run $tbin -p "$story" --temp 0 -c 12 -n 100 2>/dev/null)"
refuses "a draft of nothing" "nowhere.gguf" $run $tbin -p x --draft nowhere.gguf
refuses "a draft for --info" "--draft is for text" $run $tbin --info --draft $gguf
refuses "a draft for --bench" "--draft is for text" $run $tbin --bench --draft $gguf
refuses "--draft-tokens alone" "goes with --draft" $run $tbin -p x --draft-tokens 3
refuses "--draft-tokens 16" "--draft-tokens" $run $tbin -p x --draft $gguf --draft-tokens 16

# --- tools
text="$tmp/text"
printf 'Tom had a big red ball. He was happy.\nThe end – “ünïcode” 🙂 \n' >"$text"
$run $tbin --tokenize "$text" >"$tmp/ids" && [ "$(wc -l <"$tmp/ids")" -eq 1 ] && ok || bad "--tokenize is one line"
is "--detokenize" "$($run $tbin --detokenize "$tmp/ids" | od -c)" "$(od -c "$text")"
refuses "a NUL among ids" "not an id" $run $tbin --detokenize <(printf '\0 7')
refuses "an id too large" "not an id" $run $tbin --detokenize <(echo 999999999)
$run $tbin --info | grep -q "qkvo" && ok || bad "--info shows no scheme"
LC_ALL=C $run $tbin --explain --layer 3 -p "$story" >"$tmp/explain" 2>"$tmp/err" || bad "--explain: $(cat "$tmp/err")"
is "its sums" "$(sed -n 's/once: the weights  *\([0-9]*\)  *\([0-9]*\) |  *\([0-9]*\)  *\([0-9]*\)$/\1 \2 \3 \4/p' "$tmp/explain")" "110592 97920 147456 156672"
is "its lines of more than 80 columns, or not plain" "$(LC_ALL=C grep -cE '.{81}|[^ -~]' "$tmp/explain")" 0
refuses "--explain of a layer too many" "layers 0 .. 3" $run $tbin --explain --layer 4
refuses "--layer alone" "belongs to --explain" $run $tbin --layer 1 -p x
refuses "--explain of a text beyond -c" "-c" $run $tbin --explain -p "$story" -c 3
refuses "--explain of a file" "from -p" $run $tbin --explain -f "$text"
for i in 1 2 3 4 5 6 7 8 9 10; do cat "$text"; done >"$tmp/texts"
$run $tbin --perplexity "$tmp/texts" -c 32 2>/dev/null | tail -n 1 |
    grep -qE '^perplexity: [0-9.]+ \+/- [0-9.]+ \([0-9]+ tokens\)$' && ok || bad "--perplexity's last line"

# --- benchmark items
cat >"$tmp/items.jsonl" <<'EOT'
{"prompt": "Once upon a time there was a little", "answer": "Girl", "new_tokens": 8, "id": "first"}
{"prompt": "Once upon a time there was a", "choices": ["little girl", "tax return"], "gold": 0}
{"prompt": "Once upon a", "choices": ["time", "house"], "gold": 1, "next_token": true}
EOT
$run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/o1" -t 1 >"$tmp/e1" 2>/dev/null
$run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/o2" -t 3 -b 3 >"$tmp/e2" 2>/dev/null
is "--eval's first words" "$(cut -d: -f1 "$tmp/e1" | tr '\n' ' ')" "accuracy answer only length-normalised loss "
is "--eval, threads and batches" "$(cat "$tmp/e1" "$tmp/o1")" "$(cat "$tmp/e2" "$tmp/o2")"
is "--eval-out's lines" "$(wc -l <"$tmp/o1" | tr -d ' ')" 3
grep -q '"index": 0, "id": "first", "right": true' "$tmp/o1" && ok || bad "--eval-out: $(cat "$tmp/o1")"
$run $tbin --eval "$tmp/items.jsonl" --limit 1 2>/dev/null | grep -q "of 1 right" && ok || bad "--limit 1"
$run $tbin --eval "$tmp/items.jsonl" --eval-against $gguf 2>/dev/null | grep -q "McNemar's p = [0-9.]* (exact)" && ok || bad "--eval-against"
printf '{"prompt": "a", "answer": "b"}\n{"prompt": "a", "choices": ["b", "c"], "gold": 2}\n' >"$tmp/bad.jsonl"
refuses "gold out of range" "bad.jsonl: line 2: \"gold\"" $run $tbin --eval "$tmp/bad.jsonl"
refuses "no items" "no items" $run $tbin --eval "$tmp/empty"
refuses "no file of items" "nowhere.jsonl" $run $tbin --eval nowhere.jsonl
printf '{"prompt": "%s", "answer": "b"}\n' "$(head -c 9000 /dev/zero | tr '\0' 'a')" >"$tmp/long.jsonl"
refuses "an item too long" "long.jsonl: line 1: .*positions" $run $tbin --eval "$tmp/long.jsonl"
refuses "--limit alone" "go with --eval" $run $tbin -p x --limit 3
refuses "no second model" "nowhere.tbin" $run $tbin --eval "$tmp/items.jsonl" --eval-against nowhere.tbin
cp $tbin "$tmp/model.tbin"
refuses "--eval-out onto the model" "that is read" $run "$tmp/model.tbin" --eval "$tmp/items.jsonl" --eval-out "$tmp/model.tbin"
refuses "--eval-out onto the items" "that is read" $run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/items.jsonl"
cmp -s $tbin "$tmp/model.tbin" && ok || bad "the model was changed"
cp "$tmp/model.tbin" "$tmp/eo.part"; cp "$tmp/items.jsonl" "$tmp/ei.part"
refuses "--eval-out of which the model is the part" "on the way" $run "$tmp/eo.part" --eval "$tmp/items.jsonl" --eval-out "$tmp/eo"
refuses "--eval-out of which the items are the part" "on the way" $run $tbin --eval "$tmp/ei.part" --eval-out "$tmp/ei"
cmp -s "$tmp/eo.part" "$tmp/model.tbin" && cmp -s "$tmp/ei.part" "$tmp/items.jsonl" && ok || bad "--eval-out took what it reads"
if ln -s "$tmp/linked" "$tmp/link" 2>/dev/null && [ -L "$tmp/link" ]; then
    refuses "--eval-out through a link to nothing" "leads nowhere" $run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/link"
    echo old >"$tmp/linked"
    $run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/link" -t 1 >/dev/null 2>&1
    [ -L "$tmp/link" ] && cmp -s "$tmp/linked" "$tmp/o1" && ok || bad "a link as --eval-out does not stay one"
    cp "$tmp/model.tbin" "$tmp/linked.part"
    refuses "a link to what the model is the part of" "on the way" $run "$tmp/linked.part" --eval "$tmp/items.jsonl" --eval-out "$tmp/link"
    rm -f "$tmp/linked.part"
    if [ -e /proc/self/fd/1 ]; then
        ln -sf /proc/self/fd/1 "$tmp/link"
        $run $tbin --eval "$tmp/items.jsonl" --eval-out "$tmp/link" >"$tmp/log" 2>"$tmp/err"; code=$?
        [ $code -eq 1 ] && grep -q "standard output goes" "$tmp/err" && [ -L "$tmp/link" ] && ok || bad "standard output as --eval-out: code $code"
    fi
fi
refuses "--eval-out nowhere" "nowhere" $run $tbin --eval "$tmp/items.jsonl" --eval-out nowhere/out

# --- encoders: a tiny random one, whose numbers test_tools.c checks
printf '[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n' >"$tmp/vocab.txt"
for i in $(seq 5 47); do echo "w$i"; done >>"$tmp/vocab.txt"
if $export tests/golden/bert --tokenizer "$tmp/vocab.txt" --dense -q -o "$tmp/bert.gguf" 2>"$tmp/err"; then
    $run "$tmp/bert.gguf" --fill-mask "W5 [MASK] w7" >"$tmp/out" 2>&1
    is "--fill-mask prints five lines" "$(grep -cE '^0\.[0-9]{6} +[0-9]+  ".*"  w5 (.* )?w7$' "$tmp/out")" 5
    is "--top" "$($run "$tmp/bert.gguf" --fill-mask "w5 [MASK]" --top 3 | wc -l)" 3
    is "--embed prints d numbers" "$($run "$tmp/bert.gguf" --embed "w5 w6" | wc -lw | xargs)" "1 32"
    printf 'w5 w6\n\nw7' >"$tmp/lines"
    is "--embed-file prints a line for each" "$($run "$tmp/bert.gguf" --embed-file "$tmp/lines" | wc -l)" 3
    is "its first line" "$($run "$tmp/bert.gguf" --embed-file "$tmp/lines" | head -n 1)" \
        "$($run "$tmp/bert.gguf" --embed "w5 w6")"
    is "--embed-file of standard input" "$($run "$tmp/bert.gguf" --embed-file - <"$tmp/lines" | md5sum)" \
        "$($run "$tmp/bert.gguf" --embed-file "$tmp/lines" | md5sum)"
    [ "$($run "$tmp/bert.gguf" --embed w5 --pool first)" != "$($run "$tmp/bert.gguf" --embed w5)" ] && ok || bad "--pool"
    is "threads" "$($run "$tmp/bert.gguf" --embed "w5 w6" -t 1)" "$($run "$tmp/bert.gguf" --embed "w5 w6" -t 2)"
    refuses "the other spelling" "written \[MASK\]" $run "$tmp/bert.gguf" --fill-mask "w5 <mask>"
    refuses "a pooling of another name" "--pool" $run "$tmp/bert.gguf" --embed w5 --pool max
    refuses "--top 0" "--top" $run "$tmp/bert.gguf" --fill-mask "[MASK]" --top 0
    refuses "a text that is too long" "at most 24" $run "$tmp/bert.gguf" --embed "$(seq -s ' ' 30)"
    refuses "an encoder asked to go on" "encoder" $run "$tmp/bert.gguf" -p "w5"
    $run "$tmp/bert.gguf" --info | grep -q '^tokenizer  *WordPiece, 48 pieces' && ok || bad "--info of WordPiece"
else bad "exporting an encoder: $(head -c 300 "$tmp/err")"; fi
[ ! -f "$tmp/bert.gguf" ] || refuses "an encoder as a draft" "encoder" $run $tbin -p x --draft "$tmp/bert.gguf"
refuses "masks of a decoder" "is a decoder" $run $tbin --fill-mask "x <mask>"
refuses "vectors of a decoder" "decoder" $run $tbin --embed x
# --- speed: that it is measured, not how much it is
measured='"[a-z0-9_]+": ("[^"\\]*"|[0-9.e+-]+|null)'
for model in $gguf $tbin; do
    $run $model --bench --json --repeat 1 >"$tmp/json" 2>"$tmp/err" </dev/null || bad "--bench --json: $(head -c 200 "$tmp/err")"
    [ "$(wc -l <"$tmp/json")" -eq 1 ] && grep -qE "^\{($measured, )*$measured\}$" "$tmp/json" && ok || bad "--json is not one flat object"
    missing=
    for key in prefill_512_tok_s decode_128_tok_s decode_d0_tok_s prefill_512_gmadd_s decode_128_gb_s gb_s read_gb_s \
        peak_f32_gmadd_s peak_int8_gmadd_s peak_mib cache_mib size_mib params load_ms first_token_ms threads batch context repeat
    do [ "$(sed -n "s/.*\"$key\": \([0-9.e+-]*\)[,}].*/\1/p" "$tmp/json" | awk '$1 > 0')" ] || missing="$missing $key"; done
    for key in version isa arch type attention kv model; do grep -q "\"$key\": \"..*\"" "$tmp/json" || missing="$missing $key"; done
    is "keys of --json without a value" "$missing" ""
    grep -q '"decode_d2048_tok_s": null, ' "$tmp/json" && ok || bad "a depth that the context does not hold is not null"
done
grep -q '"attention": "factored"' "$tmp/json" && ok || bad "--bench does not see factors"
$run $gguf --bench --repeat 2 --bench-depths 0,448,513 -t 1 -b 8 --kv q8 >"$tmp/out" 2>/dev/null </dev/null
is "rows of --bench" "$(grep -cE '^\| models/stories.gguf, llama q8_0, attention dense \| [^|]* \| 2.16 M \| 1 \| [^|]* \| [0-9.]+ \([0-9.]+ - [0-9.]+\) \| [^|]* \|$' "$tmp/out")" 4
grep -q "left out: decode 64 at depth 513" "$tmp/out" && ok || bad "what was left out is not said"
refuses "--json alone" "belong to --bench" $run $tbin -p x --json
refuses "--repeat alone" "belong to --bench" $run $tbin --info --repeat 2
for bad_flag in "--repeat 0" "--repeat 101" "--bench-depths 2,1" "--bench-depths x" "--bench-depths 1," "-c 513"
do refuses "bad value $bad_flag" "${bad_flag%% *}" $run $tbin --bench $bad_flag; done
[ "$SIGNALS" = 0 ] || {
$run $gguf --bench --repeat 100 >"$tmp/out" 2>"$tmp/err" </dev/null & sleep 1; kill -TERM $!; wait $!
is "an interrupted --bench" "$? $(grep -c interrupted "$tmp/err") $(head -c 7 "$tmp/out")" "1 1 | model"; }

# --- the published text of a published model
if [ -f "$data/models/stories260K.bin" ]; then
    $export "$data/models/stories260K.bin" --tokenizer "$data/models/tok512.bin" --dense --type f32 -o "$tmp/260k.gguf" >/dev/null 2>&1
    sed -n '/-t 0.0$/,/^```$/p' "$data/models/stories260K.md" | sed '1d;$d' >"$tmp/published"
    $run "$tmp/260k.gguf" -p "" --temp 0 -n 256 2>/dev/null | head -c "$(wc -c <"$tmp/published")" >"$tmp/ours"
    is "stories260K, dense" "$(cat "$tmp/ours")" "$(cat "$tmp/published")"
    for scheme in qkvo qkv+o qk+v+o q+k+v+o; do
        $export "$data/models/stories260K.bin" --tokenizer "$data/models/tok512.bin" --scheme $scheme --keep 1 --type f32 -o "$tmp/260k.tbin" >/dev/null 2>&1
        $run "$tmp/260k.tbin" -p "" --temp 0 -n 256 --kv f32 2>/dev/null | head -c "$(wc -c <"$tmp/published")" >"$tmp/ours"
        is "stories260K, $scheme at full rank" "$(cat "$tmp/ours")" "$(cat "$tmp/published")"
    done
else skip "stories260K is not here" 5; fi

# --- files that broke others: an answer or an error, never a crash
if [ -d "$data/malformed" ]; then
    for f in "$data"/malformed/*.gguf "$data"/malformed/*.bin "$data"/malformed/*.safetensors; do
        for action in "-p x" --info "--tokenize $text"; do
            timeout 20 $run "$f" $action >/dev/null 2>"$tmp/err" </dev/null; code=$?
            if [ $code -le 1 ] && [ "$(wc -l <"$tmp/err")" -le 2 ]; then ok; else
                bad "$(basename "$f") $action: code $code, $(head -c 200 "$tmp/err")"; fi
        done
    done
else skip "malformed files are not here" 1; fi

echo "cli: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
