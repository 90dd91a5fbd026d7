"""Peak memory of `phi-vision export`, beside the size of the weights that it writes.

    python -m benchmarks.export_memory CHECKPOINT --workshop FOLDER [--samples 1] [--rank 32]

Makes a LoRA adapter with random weights for the checkpoint, exports it in a separate process,
verification included, and reports that process's peak resident memory. Needs disk space for the
weights once more; removes its files.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel

from phi_vision.model.checkpoint import load_config
from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM
from phi_vision.synthetic.catalog import write_catalog

TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

EXPORT = """
import sys
from pathlib import Path
from phi_vision.export.hf import export_hf
source, out, data, samples = sys.argv[1:]
print(export_hf(source, Path(out), data=Path(data), samples=int(samples)).summary())
"""
"""The measured command, in a separate process."""

SIZE = 0.003
"""Standard deviation of the adapter's weights: their product changes a weight by less than its own
size, as training does."""


def measure(checkpoint: Path, workshop: Path, *, samples: int, rank: int) -> dict[str, float]:
    """Export an adapter of a checkpoint in a child process, and measure it."""
    adapter, out = workshop / "adapter", workshop / "out"
    write_catalog(workshop / "data", rows=24, seed=0)
    write_adapter(checkpoint, adapter, rank=rank)
    words = [str(adapter), str(out), str(workshop / "data"), str(samples)]
    subprocess.run([sys.executable, "-c", EXPORT, *words], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    weights = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return {"weights": weights, "peak": peak, "ratio": peak / weights}


def write_adapter(checkpoint: Path, folder: Path, *, rank: int) -> None:
    """Write an adapter with random weights that fits a checkpoint."""
    with torch.device("meta"):
        network = Phi3VForCausalLM(load_config(checkpoint))
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(TARGETS),
        modules_to_save=["img_projection.0", "img_projection.2"],
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(checkpoint),
    )
    model = PeftModel(network, config)
    torch.manual_seed(0)
    trained = [module for name, module in model.named_modules() if "lora_" in name]
    trained += [m for name, m in model.named_modules() if name.endswith("modules_to_save.default")]
    for module in trained:
        module.to_empty(device="cpu", recurse=False)
        for weight in module.parameters(recurse=False):
            torch.nn.init.normal_(weight, std=SIZE)
    model.save_pretrained(folder, save_embedding_layers=False)


def main() -> None:
    """Measure the export, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder with whole weights")
    parser.add_argument("--workshop", type=Path, required=True, help="new folder to work in")
    parser.add_argument("--samples", type=int, default=1, help="samples of the proof")
    parser.add_argument("--rank", type=int, default=32, help="rank of the adapter")
    options = parser.parse_args()
    options.workshop.mkdir(parents=True)
    try:
        found = measure(
            options.checkpoint, options.workshop, samples=options.samples, rank=options.rank
        )
        print(json.dumps(found))
    finally:
        shutil.rmtree(options.workshop)


if __name__ == "__main__":
    main()
