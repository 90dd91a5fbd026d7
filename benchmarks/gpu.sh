#!/usr/bin/env bash
# The full-size model on one GPU, in one call: writes random weights, trains LoRA, answers a batch.
#   bash benchmarks/gpu.sh FOLDER      about 9 GB of disk; prints one JSON line of figures a step
set -euo pipefail
folder=${1:?"give a folder with 9 GB of room"}
python -m benchmarks.full_size write "$folder"
for batch in 1 8 32; do
    python -m benchmarks.full_size train "$folder" --batch-size "$batch"
done
