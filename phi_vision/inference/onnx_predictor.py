"""OnnxModel: the ONNX graphs of an exported folder in the place of a model, for `generation`.

B rows, L columns, V tokens
of the vocabulary, N images, K crops of the largest.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessorList

from phi_vision.io.process import check_installed
from phi_vision.model.checkpoint import explained, load_config, load_generation_config

GENAI_FILE = "genai_config.json"
# New tokens for which the cache is allocated. A longer text is read again as a whole: rare, and
# cheaper than memory for texts that do not occur.
SEGMENT = 256


class OnnxModel:
    """The output of `phi-vision export --format onnx` with the interface of a model."""

    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        check_installed("onnxruntime_genai", "phi-vision[onnx]", "an ONNX folder")
        import onnxruntime_genai

        if not (folder / GENAI_FILE).is_file() or not (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} is not an ONNX folder: {GENAI_FILE} or config.json is missing; "
                "give one that `phi-vision export` wrote"
            )
        self.config = load_config(folder)
        self.generation_config = load_generation_config(folder, self.config)
        self._genai: Any = onnxruntime_genai
        # As many threads as PyTorch uses.
        session = {"session_options": {"intra_op_num_threads": torch.get_num_threads()}}
        sections = dict.fromkeys(("decoder", "embedding", "vision"), session)
        with explained(f"The graphs in {folder} do", "Copy them again, each with its .data file."):
            options = self._genai.Config(str(folder))
            options.overlay(json.dumps({"model": sections}))
            self._graphs = self._genai.Model(options)

    def generate(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        max_new_tokens: int,
        logits_processor: LogitsProcessorList | tuple[()] = (),
        do_sample: bool = False,
        num_beams: int = 1,
    ) -> torch.Tensor:
        """Extend texts (B, L) as a model does to (B, L + new), with padding after a stop token."""
        assert (do_sample, num_beams) == (False, 1), "only greedy generation is there"
        images = self._image_inputs(pixel_values, image_sizes)
        stops = torch.tensor(self.generation_config.eos_token_id)
        limit = self.config.original_max_position_embeddings
        texts_BL, last = input_ids, input_ids.shape[1] + max_new_tokens
        is_running = True
        while is_running and texts_BL.shape[1] < last:
            new = texts_BL.shape[1] - attention_mask.shape[1]
            mask_BL = torch.nn.functional.pad(attention_mask, (0, new), value=1)
            longest, count = int(mask_BL.sum(1).max()), min(SEGMENT, last - texts_BL.shape[1])
            # Beyond the original context the rotary factors of all positions change, and the cache
            # is stale: the text is read again; see `prepare_inputs_for_generation` of the model.
            # The first token beyond the limit is still selected by a text within it.
            if longest <= limit:
                count = min(count, limit + 1 - longest)
            texts_BL = self._extend(texts_BL, mask_BL, images, count, logits_processor)
            ended_B = torch.isin(texts_BL[:, input_ids.shape[1] :], stops).any(1)
            is_running = not bool(ended_B.all())
        return texts_BL

    def _extend(
        self,
        texts_BL: torch.Tensor,
        mask_BL: torch.Tensor,
        images: dict[str, NDArray[Any]],
        count: int,
        logits_processor: LogitsProcessorList | tuple[()],
    ) -> torch.Tensor:
        """Read the texts and generate at most `count` tokens for each."""
        ids_BL = self._right_pad(texts_BL, mask_BL)
        options = self._genai.GeneratorParams(self._graphs)
        options.set_search_options(max_length=ids_BL.shape[1] + count, batch_size=len(ids_BL))
        generator = self._genai.Generator(self._graphs, options)
        inputs = self._genai.NamedTensors()
        for name, values in {"input_ids": ids_BL, **images}.items():
            inputs[name] = values
        generator.set_inputs(inputs)
        while not generator.is_done():
            logits = generator.get_logits()
            scores_BV = torch.from_numpy(logits[:, -1].copy())
            for process in logits_processor:
                scores_BV = process(texts_BL, scores_BV)
            generator.set_logits(scores_BV.numpy().reshape(logits.shape))
            generator.generate_next_token()
            chosen_B = torch.from_numpy(generator.get_next_tokens().astype(np.int64))
            texts_BL = torch.cat([texts_BL, chosen_B[:, None]], dim=1)
        return texts_BL

    def _right_pad(self, texts_BL: torch.Tensor, mask_BL: torch.Tensor) -> NDArray[np.int32]:
        """Move padding to the right, where the graphs expect it, and make placeholders negative."""
        # A stable sort by "is padding" keeps the tokens in their order.
        order_BL = torch.sort(1 - mask_BL, dim=1, stable=True).indices
        length = int(mask_BL.sum(1).max())
        pad = self.generation_config.pad_token_id
        ids_BL = texts_BL.masked_fill(mask_BL == 0, pad).gather(1, order_BL)[:, :length]
        ids_BL = torch.where(ids_BL == self.config.image_token_id, -1, ids_BL)
        return np.ascontiguousarray(ids_BL.numpy().astype(np.int32))

    def _image_inputs(
        self, pixel_values: torch.Tensor | None, image_sizes: torch.Tensor | None
    ) -> dict[str, NDArray[Any]]:
        """Arrange crops as (N, K, 3, S, S), with zeros where an image has fewer than K."""
        if pixel_values is None or image_sizes is None:
            return {}
        tower = self.config.tower
        side = tower.image_size // tower.patch_size // 2
        rows, columns = (image_sizes // tower.image_size).unbind(1)
        counts = (rows * columns + 1).tolist()
        # With `pad_crops` the image processor has arranged them already.
        crops = list(pixel_values) if pixel_values.ndim == 5 else pixel_values.split(counts)
        padded = torch.nn.utils.rnn.pad_sequence(crops, batch_first=True)
        return {
            "pixel_values": padded.float().numpy(),
            "image_sizes": image_sizes.numpy().astype(np.int64),
            "num_image_tokens": ((rows * columns + 1) * side**2 + 1 + (rows + 1) * side).numpy(),
        }
