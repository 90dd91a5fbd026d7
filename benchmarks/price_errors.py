"""Price errors of an evaluation by whether the title's words are correct.

python -m benchmarks.price_errors runs/demo/run/report
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median

from phi_vision.runs import ReportDir
from phi_vision.synthetic.drawing import VOCABULARY

WORDS = {
    "material": {word for word, _ in VOCABULARY["materials"].values()},
    "trim": {word for word, _ in VOCABULARY["trims"].values()} - {""},
}


def find_word(title: object, what: str) -> str | None:
    """Find the word of a title that names its material or trim."""
    return next((word for word in str(title).split() if word in WORDS[what]), None)


def main() -> None:
    """Print the share of titles with each word correct, and the price error of each case."""
    parser = argparse.ArgumentParser(description="Split price errors by what the titles say.")
    parser.add_argument("report", type=Path, help="folder written by phi-vision evaluate")
    report = ReportDir(parser.parse_args().report)
    lines = report.predictions_file.read_text().splitlines()
    cases: dict[tuple[bool, bool], list[float]] = {}
    for line in lines:
        answer = json.loads(line)
        truth, parsed = answer["truth"], answer["parsed"]
        if parsed and parsed["full_price"]:
            right = [find_word(truth["title"], w) == find_word(parsed["title"], w) for w in WORDS]
            error = abs(math.log(parsed["full_price"] / truth["full_price"]))
            cases.setdefault((right[0], right[1]), []).append(error)
    total = sum(map(len, cases.values()))
    for (material, trim), errors in sorted(cases.items(), reverse=True):
        words = f"material {'right' if material else 'wrong'}, trim {'right' if trim else 'wrong'}"
        share = len(errors) / total
        print(f"{words}: {share:.0%} of {total}, median log error {median(errors):.3f}")


if __name__ == "__main__":
    main()
