"""Prompts and pictures to answers: greedy generation in batches, the only one in the house."""

from collections.abc import Sequence

import torch
from PIL.Image import Image

from .modeling_phi3_v import Phi3VForCausalLM
from .processing_phi3_v import Phi3VProcessor


@torch.inference_mode()
def answer(
    model: Phi3VForCausalLM,
    processor: Phi3VProcessor,
    prompts: Sequence[str],
    images: Sequence[Sequence[Image]],
    *,
    max_new_tokens: int = 96,
    batch_size: int = 16,
) -> list[str]:
    """Answer each prompt about its pictures, in the order given.

    Rows are batched by length, so that little is padded, and only with rows that leave the original
    context at the same new token, if ever: beyond it the whole batch is rotated by other factors.

    Args:
        model: A Phi-3-Vision model, with or without an adapter.
        processor: Its processor.
        prompts: Texts with `<|image_k|>` tags.
        images: For each prompt its pictures.
        max_new_tokens: Longest answer in tokens.
        batch_size: Most rows generated together.

    Returns:
        The answers without control tokens.
    """
    was_training = model.training
    model.eval()
    rows = [
        processor(text=prompt, images=list(pictures) or None, return_tensors="pt")
        for prompt, pictures in zip(prompts, images, strict=True)
    ]
    answers = [""] * len(rows)
    limit = model.config.original_max_position_embeddings
    lengths = [row["input_ids"].shape[1] for row in rows]
    order = sorted(range(len(rows)), key=lambda row: lengths[row])
    # New tokens until a row leaves the original context; -1 where its prompt is beyond already.
    room = [min(max(limit - length, -1), max_new_tokens) for length in lengths]
    for chosen in _batches(order, room, batch_size):
        batch = left_pad([rows[row] for row in chosen], processor.tokenizer.pad_token_id)
        batch = {name: values.to(model.device) for name, values in batch.items()}
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.batch_decode(
            ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        for row, text in zip(chosen, texts, strict=True):
            answers[row] = text.strip()
    model.train(was_training)
    return answers


def left_pad(rows: Sequence[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Join single rows into one batch, padded on the left.

    Input:  ids `[[1, 5]]` and `[[1, 6, 7]]`
    Output: ids `[[pad, 1, 5], [1, 6, 7]]`, mask `[[0, 1, 1], [1, 1, 1]]`, pictures concatenated
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, pad_token_id)
    mask = torch.zeros(shape, dtype=torch.long)
    for place, row in enumerate(rows):
        length = row["input_ids"].shape[1]
        ids[place, longest - length :] = row["input_ids"][0]
        mask[place, longest - length :] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    for name in ("pixel_values", "image_sizes"):
        parts = [row[name] for row in rows if name in row]
        if parts:
            batch[name] = torch.cat(parts)
    return batch


def _batches(order: Sequence[int], room: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut rows, in the given order, into batches of rows with equal room.

    Input:  order `[3, 0, 1, 2]`, room `[8, 5, -1, 8]`, batch_size 16
    Output: `[[3, 0], [1], [2]]`
    """
    batches: list[list[int]] = []
    for row in order:
        last = batches[-1] if batches else []
        if last and len(last) < batch_size and room[last[0]] == room[row]:
            last.append(row)
        else:
            batches.append([row])
    return batches
