#!/usr/bin/env bash
# Prints docs/tutorial.md: from a dense net to a small file for another runtime, with the command line only.
# DATA_ROOT contains fsdd/recordings/ and cifar10/ or cifar-10-batches-py/. Expected: 10 minutes on two cores.
# Usage: scripts/tutorial.sh DATA_ROOT > docs/tutorial.md
set -euo pipefail
data=$(realpath "${1:?usage: scripts/tutorial.sh DATA_ROOT > docs/tutorial.md}")
source "$(dirname "$0")/setup.sh" train,export >&2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
ln -s "$data" "$place/data" && cd "$place"
export COLUMNS=110 PYTHONWARNINGS=ignore

show() { # LINES COMMAND…: prints the command and the last lines of its output, without progress bars
  local lines=$1 said
  shift
  printf '\n```console\n$ %s\n' "$*"
  said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
  printf '%s\n' "$said" | grep -vE 'setup:|━━.*[0-9]+/[0-9]+|^ *(val|train)/acc|^Epoch|^ *$' | tail -n "$lines"
  printf '```\n'
}

hand_over() { # CONFIG NAME RATIO EPOCHS EPOCHS FILE…: all steps on one data set
  local config=$1 name=$2 ratio=$3 epochs=$4 more=$5 out=runs/fit
  shift 5
  printf '\nTrain the dense net and save it:\n'
  show 5 autosample fit --config "$config" --model.spec dense --model.ratio null --trainer.max_epochs "$epochs" \
    --name "$name-dense" "${options[@]}"
  show 3 autosample export "$out/$name-dense/version_0/checkpoints/last.ckpt" --format artifact --out "$name-dense"
  printf '\nConvert it, with summaries fitted to its weights (a warm start), and fine-tune:\n'
  show 5 autosample fit --config "$config" --model.model_args.checkpoint_path "$name-dense/model.safetensors" \
    --model.warm_start true --model.ratio "$ratio" --trainer.max_epochs "$more" --name "$name" "${options[@]}"
  printf '\nQuantise it, export it for onnxruntime, and classify files with the saved model:\n'
  show 12 autosample quantize "$out/$name/version_0/checkpoints/last.ckpt" --bits 8 --rest fp16 --out "$name-small"
  show 14 env OMP_NUM_THREADS=1 autosample export "$name-small" --format onnx-int8-weights --out "$name.onnx" --compare true
  show 5 autosample predict "$name-small" "$@"
}

cat <<'TEXT'
# From a dense net to a small file

Warm start, fine-tuning, quantisation and export, with the command line only. Every output below is real:
`bash scripts/tutorial.sh DATA_ROOT > docs/tutorial.md` writes this page, where `data` is DATA_ROOT. Times are medians
[ms] with quartiles, on a machine that may be busy with other work.
TEXT
printf '\n%s, %s cores, torch %s, %s.\n' "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)" "$(nproc --all)" \
  "$(python -c 'import torch; print(torch.__version__)')" "$(date +%F)"

printf '\n## Spoken digits, raw waves\n'
options=()
hand_over experiment/spoken_digits digits 16 6 2 \
  data/fsdd/recordings/{7_jackson_0,3_theo_1,0_lucas_2}.wav

printf '\n## CIFAR-10\n\nA small timm net and few epochs: a demonstration on a CPU, not a result.\n'
options=(--config data/cifar10 --model.model test_resnet)
hand_over experiment/cifar10 cifar 4 1 1 "$(find -L data/cifar10/test -name '*.png' | sort | head -n 1)"
cat <<'TEXT'

## In Python

```python
import autosample

model = autosample.load("digits-small")  # a fresh process needs nothing else
fast = autosample.deploy(model, example)  # the same outputs, each layer computed in the fastest way
```
TEXT
