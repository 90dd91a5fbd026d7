"""Numbers, sizes, durations and lists as text for messages and reports, and values for JSON."""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def join_few(words: Sequence[str], most: int = 5) -> str:
    """Join the first of many: ["a", "b", "c", "d"], 2 -> "a, b and 2 more"."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that may be meant: one that is spelt alike, else one that has it."""
    names = {name.lower(): name for name in known}
    word = word.lower()
    stem = word.strip("-")
    close = difflib.get_close_matches(word, names, n=1)
    close = close or [name for name in names if len(stem) > 2 and stem in name]
    return names[close[0]] if close else None


def nearest_file(path: Path) -> str | None:
    """Return the file or folder beside a missing one that may be meant."""
    beside = (file.name for file in path.parent.glob("*") if file.exists() and file != path)
    found = nearest(path.name, beside)
    return str(path.parent / found) if found else None


def suggestion(word: str | Path, known: Iterable[str] = ()) -> str:
    """Format " (did you mean WORD?)" with the nearest known word or file, "" if none is close."""
    found = nearest_file(word) if isinstance(word, Path) else nearest(word, known)
    return f" (did you mean {found}?)" if found else ""


def as_plain(value: Any, omitted: Mapping[type, Sequence[str]] | None = None) -> Any:
    """Convert to what JSON can hold; NaN and infinity become null.

    Input:  {"folder": Path("runs/a"), "best": nan, "steps": Steps(per_epoch=3, total=9)}
    Output: {"folder": "runs/a", "best": None, "steps": {"per_epoch": 3, "total": 9}}

    Of a dataclass in `omitted` the fields listed there are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        left_out = (omitted or {}).get(type(value), ())
        value = {name: getattr(value, name) for name in names if name not in left_out}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): as_plain(each, omitted) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each, omitted) for each in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def yaml_fault(error: Exception) -> str:
    """Describe where a file is no YAML, without its content: "found at line 3"."""
    mark = getattr(error, "problem_mark", None)
    return f"found at line {mark.line + 1}" if mark else "its bytes are no text"


def read_yaml(module: str, name: str = "") -> Any:
    """Read the YAML file beside a module: that of its own name, or another."""
    import yaml

    file = Path(module).with_suffix(".yaml")
    return yaml.safe_load((file.parent / name if name else file).read_text(encoding="utf-8"))


def read_fields(file: Path, advice: str) -> dict[str, Any]:
    """Read a JSON file of one object; what it holds otherwise is an error with the advice."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}; {advice}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not fields; {advice}")
    return content


def error_texts(module: str, name: str = "") -> Callable[..., ValueError]:
    """Return a maker of errors, whose texts are in the YAML file beside a module, as `read_yaml`.

    Input:  "setup.py" beside a setup.yaml with `no_data: no data at {place}`
    Output: failure("no_data", place="x") -> ValueError("no data at x")
    """
    texts = read_yaml(module, name)

    def failure(key: str, /, **values: object) -> ValueError:
        return ValueError(texts[key].format(**values))

    return failure
