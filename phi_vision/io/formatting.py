"""Numbers, sizes, durations and lists as text for messages, tables and reports."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

GIB = 2**30
MISSING = "–"  # stands for a number that does not exist


def format_number(value: float, decimals: int) -> str:
    """Format a number with separators and a true minus sign: -1234.567, 2 -> "−1,234.57"."""
    return f"{value:,.{decimals}f}".replace("-", "−") if math.isfinite(value) else MISSING


def format_signed(value: float, decimals: int) -> str:
    """Format a number with its sign; what rounds to 0 has none: 0.05, 2 -> "+0.05"."""
    text = f"{abs(value):,.{decimals}f}"
    sign = "−" if value < 0 else "+"
    return sign + text if any(digit in text for digit in "123456789") else text


def format_percent(share: float, decimals: int = 1) -> str:
    """Format a share as a percentage: 0.9345 -> "93.5 %"."""
    return f"{100 * share:.{decimals}f} %" if math.isfinite(share) else MISSING


def format_bytes(size: float) -> str:
    """Format a file or disk size: 1234567 -> "1.2 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def format_gib(size: float) -> str:
    """Format a memory size: 1610612736 -> "1.50 GiB"."""
    return f"{size / GIB:.2f} GiB"


def format_duration(seconds: float) -> str:
    """Format a duration: 7384 -> "2 h 4 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun: 1, "error" -> "1 error"; 3040, "row" -> "3,040 rows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Join a list as in a sentence: ["a", "b", "c"] -> "a, b and c"."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def yaml_fault(error: Exception) -> str:
    """Describe where a file is no YAML, without its content: "found at line 3"."""
    mark = getattr(error, "problem_mark", None)
    return f"found at line {mark.line + 1}" if mark else "its bytes are no text"


def error_texts(module: str) -> Callable[..., ValueError]:
    """Return a maker of errors, whose texts are in the YAML file beside a module.

    Input:  "setup.py" beside a setup.yaml with `no_data: no data at {place}`
    Output: failure("no_data", place="x") -> ValueError("no data at x")
    """
    import yaml

    texts = yaml.safe_load(Path(module).with_suffix(".yaml").read_text(encoding="utf-8"))

    def failure(key: str, /, **values: object) -> ValueError:
        return ValueError(texts[key].format(**values))

    return failure
