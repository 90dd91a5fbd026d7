"""Preferences as TRL's data sets hold them -> a conversation and a worse answer to it."""

from collections.abc import Collection, Mapping

from phi_vision.data.samples import IMAGE_MARK

TRL_COLUMNS = ("prompt", "chosen", "rejected")
"""The prompt may also stand in front of both answers instead of in its own column."""


def is_from_trl(columns: Collection[str]) -> bool:
    """Whether these are the columns of TRL's preferences."""
    return {"chosen", "rejected"} <= set(columns)


def as_conversation(row: Mapping[str, object], sample: str) -> dict[str, object]:
    """Turn a row into one with a conversation that ends with the right answer.

    Input:  prompt "What is it?", chosen "A hat.", rejected "A bag."; or lists of
            {"role": ..., "content": ...}
    Output: messages [user "What is it?", assistant "A hat."], rejected "A bag."

    Args:
        row: Column -> cell.
        sample: How an error calls the row.

    Raises:
        ValueError: A cell is neither text nor turns, or there are not two answers to one prompt.
    """
    prompt = _turns(row.get("prompt"), "user", sample)
    chosen, rejected = (_turns(row[name], "assistant", sample) for name in ("chosen", "rejected"))
    speakers = [turns[-1]["role"] if turns else None for turns in (chosen, rejected)]
    if speakers != ["assistant"] * 2 or chosen[:-1] != rejected[:-1]:
        raise ValueError(
            f"{sample}: chosen and rejected are no two answers to one prompt; found "
            f"{row['chosen']!r:.80} and {row['rejected']!r:.80}; let only the last turn differ"
        )
    return {**row, "messages": [*prompt, *chosen], "rejected": rejected[-1]["content"]}


def _turns(cell: object, role: str, sample: str) -> list[dict[str, str]]:
    """Read a cell as turns: a text is one turn of `role`."""
    if cell is None:
        return []
    if isinstance(cell, str):
        return [{"role": role, "content": cell}]
    try:
        return [{"role": turn["role"], "content": _words(turn["content"])} for turn in cell]  # type: ignore[attr-defined]
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{sample}: its preference holds {cell!r:.80}; write a text, or a list of "
            '{"role": "user", "content": "..."}'
        ) from error


def _words(content: object) -> str:
    r"""Read what is said in a turn, where images may stand among the words.

    Input:  [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    Output: "<image>\nWhat is it?"
    """
    if isinstance(content, str):
        return content
    parts = [IMAGE_MARK if part["type"] == "image" else part["text"] for part in content]  # type: ignore[attr-defined]
    return "\n".join(parts)
