#!/usr/bin/env bash
# The full-size model on one GPU, in one call: writes random weights, trains, answers.
#   bash benchmarks/gpu.sh FOLDER      about 9 GB of disk; prints one JSON line of figures a run
set -euo pipefail
folder=${1:?"give a folder with 9 GB of room"}
python -m benchmarks.full_size write "$folder"
for recipe in lora qlora; do
    for batch in 1 8 32; do
        python -m benchmarks.full_size train "$folder" --recipe "$recipe" --batch-size "$batch"
    done
done
python -m benchmarks.full_size train "$folder" --recipe full --batch-size 1 --steps 2
python -m benchmarks.plan_memory --gpu
