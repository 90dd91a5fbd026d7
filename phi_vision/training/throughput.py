"""How many samples and tokens a second are learnt from, counted on what the model really gets."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from phi_vision.model.modeling_phi3_v import Phi3VForCausalLM


class Throughput:
    """Counts while the model learns: padding is not counted, nor are evaluations.

    Args:
        rows_per_sample: 2 for preferences, where each sample is a right and a worse answer.
        processes: How many learn side by side; all are taken to be as fast as this one.
    """

    def __init__(self, *, rows_per_sample: int = 1, processes: int = 1) -> None:
        self.rows_per_sample = rows_per_sample
        self.processes = processes
        self.restart()

    def watch(self, model: Phi3VForCausalLM | PeftModel) -> None:
        """Count what a model is given from now on, below wrappers for several processes."""
        self._padding: int = model.config.pad_token_id
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def restart(self) -> None:
        """Begin a lap now, so that time spent on something else is left out."""
        self._since = time.perf_counter()
        self._samples: torch.Tensor | int = 0
        self._tokens: torch.Tensor | int = 0

    def lap(self) -> dict[str, float]:
        """End a lap and begin the next.

        Output: {"samples_per_second": 5.2, "tokens_per_second": 4012.7, "seconds": 3.077}
        """
        # Reading the counts waits for a GPU, so they are read before the clock is.
        samples, tokens = int(self._samples) / self.rows_per_sample, int(self._tokens)
        seconds = time.perf_counter() - self._since
        self.restart()
        return {
            "samples_per_second": round(self.processes * samples / seconds, 3),
            "tokens_per_second": round(self.processes * tokens / seconds, 1),
            "seconds": round(seconds, 3),
        }

    def _count(self, model: nn.Module, _: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        # Evaluations, and the model that preferences are measured from, do not learn.
        if model.training and torch.is_grad_enabled():
            samples, tokens = count(inputs, self._padding)
            self._samples = self._samples + samples
            self._tokens = self._tokens + tokens


def count(inputs: Mapping[str, Any], padding: int) -> tuple[torch.Tensor | int, torch.Tensor]:
    """Count the samples and the real tokens of a batch.

    Input:  `input_ids`     5 6 7 0      Input:  `input_ids`     5 6 7 8 9 0   (0 is padding)
                            8 9 0 0              `position_ids`  0 1 2 0 1 0
    Output: 2 samples, 5 tokens          Output: 2 samples, 5 tokens
    """
    ids_BL = inputs["input_ids"]
    real_BL = ids_BL != padding
    if inputs.get("attention_mask") is None and inputs.get("position_ids") is not None:
        # A packed row: every sample in it counts its positions from 0.
        return ((inputs["position_ids"] == 0) & real_BL).sum(), real_BL.sum()
    return len(ids_BL), real_BL.sum()
