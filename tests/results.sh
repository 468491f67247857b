#!/bin/bash
# The comparisons of doc/RESULTS.md, from one model and one text:
#   tests/results.sh MODEL.gguf TEXT [CALIBRATION]     CALIBRATION: self (default) or another text
# Every row is one export with --verify on the first 16 windows of 512 tokens of TEXT. Prints a table.
cd "$(dirname "$0")/.." || exit 1
model=$1 text=$2 calib=${3:-self}
[ -f "$model" ] && [ -f "$text" ] || { echo "usage: tests/results.sh MODEL.gguf TEXT [CALIBRATION]"; exit 1; }
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

echo "| what | flags | attention | all parameters | perplexity ratio | mean KLD | same top |"
echo "|---|---|---|---|---|---|---|"
row() {
    local name=$1; shift
    if ! export/export "$model" -o "$tmp/out.tbin" --type f16 --verify "$text" "$@" >"$tmp/log" 2>"$tmp/err"; then
        echo "| $name | \`$*\` | $(tail -1 "$tmp/err") | | | | |"; return
    fi
    awk -v name="$name" -v flags="$*" '
        /^attention/ {split($0, a, "("); split(a[2], p, " "); attention = p[1]}
        /^weights/ {split($0, a, "("); split(a[2], p, " "); all = p[1]}
        /^trawl/ {before = $0; sub(/.*: error [0-9.]*, /, "", before); split(before, t, " ");
            gsub(",", "", t[1]); gsub(",", "", t[3]); saved += t[1] - t[3]}
        /PPL after \/ before/ {ratio = $5 " ± " $7}
        /mean KLD/ {kld = $3}
        /same top/ {top = $4}
        END {printf "| %s | `%s` | %s %% | %s %%%s | %s | %s | %s %% |\n", name, flags, attention, all,
            saved ? sprintf(" (%.2f M less as factors)", saved / 1e6) : "", ratio, kld, top}' "$tmp/log"
}
data="--calib $calib --calib-tokens 8192"

# All of attention at half of its parameters
row "weighted, Fisher, budget"       --keep 0.5 --method fisher $data
row "weighted, attention-KL, uniform" --keep 0.5 --method kl $data
row "weighted, input only, uniform"  --keep 0.5 --method input $data
row "plain, the paper's tensor"      --keep 0.5 --method hooi --scheme qkvo
row "plain, Q K V apart from O"      --keep 0.5 --method hooi --scheme qkv+o
row "plain, each separately"         --keep 0.5 --method hooi --scheme q+k+v+o
# Ablation: one projection of every layer, plain and weighted
for p in q k v o; do
    row "plain, $p alone"            --keep 0.5 --method hooi --scheme $p
    row "weighted, $p alone"         --keep 0.5 --method fisher --scheme $p $data
done
# LASER: one late layer's feed-forward, 1 % of the rank; and more of it
row "LASER, plain"                   --scheme none --ffn gate:27:0.01
row "LASER, weighted"                --scheme none --ffn gate:27:0.01 --method fisher $data
row "LASER, plain, up and gate"      --scheme none --ffn gate:27:0.25,up:27:0.25
row "LASER, weighted, up and gate"   --scheme none --ffn gate:27:0.25,up:27:0.25 --method fisher $data
row "LASER, weighted, budget"        --scheme none --ffn auto --keep 0.9 --method fisher $data
# Hybrid: Tucker and LASER under one budget of the same size
row "hybrid, budget"                 --keep 0.9 --ffn auto --method fisher $data
row "hybrid, plain"                  --keep 0.5 --method hooi --scheme qkvo --layers 29 --ffn gate:27:0.01
# TRAWL: layer by layer, segments, across layers
row "TRAWL, one layer, cp"           --trawl ffn:27:cp:0.5
row "TRAWL, one layer, tucker"       --trawl ffn:27:tucker:0.5
row "TRAWL, layer by layer"          --trawl ffn:24-29/1:tucker:0.5
row "TRAWL, segments of three"       --trawl ffn:24-29/3:tucker:0.5
row "TRAWL, across six layers"       --trawl ffn:24-29:tucker:0.5
row "TRAWL, attention of a layer"    --trawl attn:29:tucker:0.5
