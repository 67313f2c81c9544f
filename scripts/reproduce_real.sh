#!/usr/bin/env bash
# Trains on real data through `autosample fit`: MNIST, spoken digits, ESC-10 and one epoch of CIFAR-10, one seed each.
# About 50 minutes on one core of a server CPU. Usage: scripts/reproduce_real.sh DATA_ROOT [OUT] [mnist|speech|esc|cifar ...]
# DATA_ROOT holds MNIST/, fsdd/, ESC-10/ and cifar10/ in their public layouts. Then: python scripts/collect_runs.py OUT
set -euo pipefail
data=$(realpath "$1")
out=${2:-runs/real}
shift $(($# < 2 ? $# : 2))
parts=${*:-mnist speech esc cifar}
cd "$(dirname "$0")/.."

fit() { # NAME ARGS...: skipped if it has finished before
  local name=$1
  shift
  if [ -f "$out/$name/done" ]; then
    echo "$name: done before"
    return
  fi
  # options come after the configs, which would overrule them otherwise
  python -m autosample fit "$@" --name "$name" --trainer.default_root_dir "$out" --data.init_args.root "$data" \
    --seed_everything 0 --trainer.enable_progress_bar "${PROGRESS:-false}" && touch "$out/$name/done"
}

mnist() {
  local common=(--config configs/data/mnist.yaml --config configs/model/mlp784.yaml --data.init_args.padding 0
    --trainer.max_epochs 10)
  fit mnist-dense "${common[@]}" --model.summary dense
  for ratio in 8 64; do
    for preset in hashednet fsnet random dfsnet autosample; do
      fit "mnist-$preset-$ratio" "${common[@]}" --model.summary "$preset" --model.ratio "$ratio"
    done
  done
}

speech() {
  local common=(--config configs/data/spoken_digits.yaml --config configs/model/wave4.yaml --trainer.max_epochs 6)
  fit speech-dense "${common[@]}" --model.summary dense
  for ratio in 16 100; do
    for preset in wsnet random autosample; do
      fit "speech-$preset-$ratio" "${common[@]}" --model.summary "$preset" --model.ratio "$ratio"
    done
  done
}

esc() {
  local common=(--config configs/data/esc10.yaml --config configs/model/soundnet8.yaml --trainer.max_epochs 8)
  fit esc-dense "${common[@]}" --model.summary dense
  fit esc-wsnet-s8c4 "${common[@]}" --config configs/summary/wsnet_s8c4.yaml
}

cifar() {
  fit cifar-autosample-8 --config configs/data/cifar10.yaml --config configs/model/resnet18.yaml \
    --trainer.max_epochs 1 --model.summary autosample --model.ratio 8
}

for part in $parts; do "$part"; done
