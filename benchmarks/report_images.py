"""Sections of a report as images, for the documentation: one PNG each, as a browser shows them.

    python -m benchmarks.report_images runs/demo-photos/run docs/images --sections summary images

Needs Chromium on the PATH, or its path in CHROMIUM. Names are those in the report's links, such as
summary, baselines, images, categories, predictions.
"""

import argparse
import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from phi_vision.runs import RunDir

# Of the window in pixels, and pixels of the image for each. A section is lower than the window: the
# bar with links would cover the middle of a higher one.
WIDTH, HEIGHT, SCALE = 1000, 5000, 1.5
MAX_HEIGHT = 1400  # pixels of an image's height in the window; what is below is left out
COLOURS = 128  # of the palette: a third of the bytes, with photographs still good


def write_sections(run: Path, out: Path, sections: list[str]) -> list[Path]:
    """Write OUT/report-SECTION.png for each section of a run's report; return the files.

    Raises ValueError if the run has no report, a section is missing, or there is no Chromium.
    """
    page_file = RunDir(run).report.path / "report.html"
    if not page_file.is_file():
        raise ValueError(f"there is no {page_file}; `phi-vision evaluate {run}` writes it")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        raise ValueError("there is no Chromium; put `chromium` on the PATH or its path in CHROMIUM")
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"report-{section}.png" for section in sections]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        window = {"width": WIDTH, "height": HEIGHT}
        page = browser.new_page(viewport=window, device_scale_factor=SCALE)  # type: ignore[arg-type]
        page.goto(page_file.resolve().as_uri())
        known = page.eval_on_selector_all("section", "all => all.map(each => each.id)")
        for section, file in zip(sections, files, strict=True):
            if section not in known:
                raise ValueError(
                    f"the report has no section {section!r}; it has {', '.join(known)}"
                )
            taken = page.locator(f"section#{section}").screenshot()
            image = Image.open(io.BytesIO(taken)).convert("RGB")
            image = image.crop((0, 0, image.width, min(image.height, round(SCALE * MAX_HEIGHT))))
            image.quantize(COLOURS).save(file, optimize=True)
        browser.close()
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write sections of a report as images.")
    parser.add_argument("run", type=Path, help="evaluated run folder")
    parser.add_argument("out", type=Path, help="folder for the images")
    parser.add_argument("--sections", nargs="+", default=["summary", "baselines", "predictions"])
    options = parser.parse_args()
    try:
        for written in write_sections(options.run, options.out, options.sections):
            print(written, f"{written.stat().st_size / 1000:.0f} kB")
    except ValueError as error:
        sys.exit(str(error))
