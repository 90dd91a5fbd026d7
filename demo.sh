#!/usr/bin/env bash
# The whole workflow of a newcomer: draw a catalog, fine-tune the packaged small model on it,
# evaluate it, and predict one image before and after. `make demo` runs this; `make demo-photos
# DATA=FOLDER` runs it on the photographs in FOLDER, with the base that has seen photographs.
set -euo pipefail
cd "$(dirname "$0")"
PATH="$PWD/.venv/bin:$PATH"

photos="${1:-}" demo=runs/demo model=phi-vision-small
[ -z "$photos" ] || demo=runs/demo-photos model=phi-vision-photo
data="$demo/catalog" run="$demo/run" image="$demo/image.jpg"
rm -rf "$demo"
mkdir -p "$demo"
say() { printf '\n\033[1m%s\033[0m (after %d min %d s)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

if [ -z "$photos" ]; then
  say "1. Sample data: a drawn catalog of product images with records"
  phi-vision sample --rows 3040 --seed 0 --out "$data"
else
  say "1. Preparation of $photos"
  phi-vision prepare "$photos" --numbers median --out "$data"
  say "What the training will take; the first time $model is fetched and built as well"
  phi-vision plan photo --data "$data"
fi

asked=()  # as the fine-tuned model will be
[ ! -f "$data/template.yaml" ] || asked=(--template "$data")

# One held-out image as a file, and its true record.
python - "$data" "$image" >"$demo/truth.txt" <<'PYTHON'
import sys
from pathlib import Path

from phi_vision.data.dataset import load_samples
from phi_vision.data.template import find_template
from phi_vision.inference.local import resolve_template

data, image = sys.argv[1:]
try:
    sample = load_samples(data, split="test")[0]
except ValueError as error:
    sys.exit(f"{error}; `phi-vision prepare DATA --resplit --out DIR` makes one")
Path(image).write_bytes(sample.images[0])
print(find_template(resolve_template(data)).render(sample.record))
PYTHON

say "2. Prediction of the base model on a held-out image"
phi-vision predict "$model" "$image" ${asked[@]+"${asked[@]}"} | tee "$demo/before.txt"

say "3. Fine-tuning with LoRA"
if [ -z "$photos" ]; then
  # In two processes of a thread each, as two threads of one mostly wait for each other in a model this small.
  OMP_NUM_THREADS=1 torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 --no-python -- \
    phi-vision train lora --model "$model" --data "$data" --output-dir "$run" \
    --num-train-epochs 4 --per-device-train-batch-size 8 --learning-rate 2e-3 --r 32 --lora-alpha 64 --train-projector \
    --metric-for-best-model title_similarity --eval-samples 128
else
  phi-vision train photo --data "$data" --output-dir "$run"
fi

say "4. Evaluation on held-out images"
phi-vision evaluate "$run" --data "$data" --target-precision 0.95 --batch-size 64

say "5. Prediction of the fine-tuned model on the same image"
phi-vision predict "$run" "$image" | tee "$demo/after.txt"

say "Summary"
echo "image    $image"
echo "true     $(cat "$demo/truth.txt")"
echo "before   $(sed 's/^[^:]*: //' "$demo/before.txt")"
echo "after    $(sed 's/^[^:]*: //' "$demo/after.txt")"
echo "model    $run/model"
echo "report   $PWD/$run/report/report.html"
