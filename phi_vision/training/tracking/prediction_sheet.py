"""Answers as one image: what the model sees, what it says, and the truth where it is wrong."""

import math
from collections.abc import Iterator, Sequence

from phi_vision.data.samples import Value
from phi_vision.training.tracking.plots import GREEN, SOFT, WIDTH, new_figure, to_png
from phi_vision.training.tracking.prediction_table import ShownPrediction

COLUMNS, MOST_ROWS = 4, 3
"""Answers beside and below each other; more would be too small to read."""

WRONG = "#c02626"
LETTERS = 28
"""Letters that fit under an image."""

POINTS = 7.5
"""Size of the letters; lines are half as high again."""


def draw_answers(answers: Sequence[ShownPrediction], step: int) -> bytes:
    """Draw the first answers of an evaluation as the bytes of a PNG file.

    Output: of each its image; below it "✓ HATS" in green, or "✗ BAGS" in red with "HATS" in gray.
    """
    shown = answers[: COLUMNS * MOST_ROWS]
    captions = [list(caption(answer)) for answer in shown]
    lines = max(map(len, captions), default=0)
    rows = math.ceil(len(shown) / COLUMNS) or 1
    # Inches of an image with the words below it; words and gaps are what images are apart.
    words_high, gap, wide = 1.5 * POINTS / 72 * lines + 0.25, 0.12, WIDTH / COLUMNS - 0.15
    height = 0.5 + rows * (wide + words_high)
    figure = new_figure(f"Answers at step {step}", height=height)
    figure.subplots_adjust(
        left=gap / WIDTH,
        right=1 - gap / WIDTH,
        top=1 - 0.5 / height,
        bottom=words_high / height,
        hspace=words_high / wide,
        wspace=gap / wide,
    )
    for place, (answer, words) in enumerate(zip(shown, captions, strict=True)):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
        if answer.image is not None:
            axes.imshow(answer.image)
        for number, (text, color) in enumerate(words, start=1):
            axes.annotate(
                text,
                (0, 0),
                xytext=(0, -1.5 * POINTS * number),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=POINTS,
                color=color,
                parse_math=False,
            )
    return to_png(figure)


def caption(answer: ShownPrediction) -> Iterator[tuple[str, str]]:
    """Word the fields of an answer, each with its colour.

    Input:  truth {"category3_code": "HATS"}, said {"category3_code": "BAGS"}
    Output: ("✗ BAGS", red) ("true: HATS", gray)
    """
    record = answer.scored.prediction.record
    if record is None:
        yield _short(f"✗ {answer.scored.prediction.text or '(nothing)'}"), WRONG
    for field, true in answer.scored.truth.items():
        if answer.is_correct[field]:
            yield _short(f"✓ {_word((record or {})[field])}"), GREEN
        elif record is not None:
            yield _short(f"✗ {_word(record.get(field))}"), WRONG
        if not answer.is_correct[field] or (record or {})[field] != true:
            yield _short(f"    true: {_word(true)}"), SOFT


def _word(value: Value) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
