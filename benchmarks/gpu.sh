#!/usr/bin/env bash
# The full-size model on one GPU, in one call: writes random weights, trains, exports, serves.
#   bash benchmarks/gpu.sh FOLDER      about 18 GB of disk; prints the figures of each run
set -euo pipefail
folder=${1:?"give a folder with 18 GB of room"}
python -m benchmarks.full_size write "$folder"
for recipe in lora qlora; do
    for batch in 1 8 32; do
        python -m benchmarks.full_size train "$folder" --recipe "$recipe" --batch-size "$batch"
    done
done
python -m benchmarks.full_size train "$folder" --recipe full --batch-size 1 --steps 2
python -m benchmarks.plan_memory --gpu
python -m benchmarks.export_memory "$folder" --workshop "$folder-export" --samples 1
python -m tests.load.serve_load "$folder" --throughput --seconds 20 --rounds 3 --clients 64
