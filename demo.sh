#!/usr/bin/env bash
# The whole workflow of a newcomer: draw a catalog, fine-tune the packaged small model on it,
# evaluate it, and predict one image before and after. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"

demo=runs/demo
rm -rf "$demo"
mkdir -p "$demo"
say() { printf '\n\033[1m%s\033[0m (after %d min %d s)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

say "1. Sample data: a drawn catalog of product images with records"
phi-vision sample --rows 3040 --seed 0 --out runs/demo/catalog

# One held-out image as a file, and its true record.
python - >"$demo/truth.txt" <<'PYTHON'
from pathlib import Path

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import TEMPLATES

sample = load_samples("runs/demo/catalog", split="test")[0]
Path("runs/demo/image.jpg").write_bytes(sample.images[0])
print(TEMPLATES["product"].render(sample.record))
PYTHON

say "2. Prediction of the base model on a held-out image"
phi-vision predict phi-vision-small runs/demo/image.jpg | tee "$demo/before.txt"

# In two processes of a thread each, as two threads of one mostly wait for each other in a model this small.
say "3. Fine-tuning with LoRA"
OMP_NUM_THREADS=1 torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 --no-python \
  phi-vision train lora --model phi-vision-small --data runs/demo/catalog --output-dir runs/demo/run \
  --num-train-epochs 6 --per-device-train-batch-size 8 --learning-rate 2e-3 --r 32 --lora-alpha 64 --train-projector \
  --metric-for-best-model full_price_median_ape --eval-samples 128

say "4. Evaluation on held-out images"
phi-vision evaluate runs/demo/run --data runs/demo/catalog --target-precision 0.95 --batch-size 64

say "5. Prediction of the fine-tuned model on the same image"
phi-vision predict runs/demo/run runs/demo/image.jpg | tee "$demo/after.txt"

say "Summary"
echo "image    $demo/image.jpg"
echo "true     $(cat "$demo/truth.txt")"
echo "before   $(sed 's/^[^:]*: //' "$demo/before.txt")"
echo "after    $(sed 's/^[^:]*: //' "$demo/after.txt")"
echo "model    $demo/run/model"
echo "report   $PWD/$demo/run/report/report.html"
