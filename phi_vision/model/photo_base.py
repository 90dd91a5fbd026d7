"""`phi-vision-photo`: a base that has seen photographs and read English, built where it is used.

    find tower and decoder -> check -> assemble -> a folder of the official layout, with notices

Its weights are in no package of ours: `assembly.py` makes it from two pre-trained parts, once, in
the cache ($PHI_VISION_CACHE, by default ~/.cache/phi-vision).
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from phi_vision.io.atomic import atomic_folder, temporary_folder, write_text
from phi_vision.io.formatting import error_texts, read_fields
from phi_vision.io.hashing import sha256
from phi_vision.io.process import CACHE_FOLDER, CACHE_VARIABLE, cache_folder

from .assembly import KNOWN, assemble, check_crops
from .checkpoint import PHOTO, first_line, read_header
from .parts import Found, find_part, read_decoder, read_tower

logger = logging.getLogger(__name__)
failure = error_texts(__file__)

READERS: dict[str, Callable[[Path, str], Any]] = {"tower": read_tower, "decoder": read_decoder}
CROP_SIZE = 224  # pixels: 145 image tokens, instead of 85 at 168
PATCH, CONTEXT = 14, 8192  # pixels of a patch and tokens of the context, of the known parts
NEEDED_BYTES = 700_000_000  # both parts, and the folder


def photo_folder() -> Path:
    """Return the folder of `phi-vision-photo`, which is built at the first call."""
    # Also where the cache is switched off: it has to be somewhere.
    name = f"{PHOTO}-{CROP_SIZE}"  # so that a base with other crops stays what its runs know
    folder = cache_folder(name) or Path(CACHE_FOLDER).expanduser() / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            logger.info("building %s in %s, once", PHOTO, folder)
            build_base(folder)
    except OSError as error:
        named = {"place": folder.parent, "variable": CACHE_VARIABLE}
        raise failure("no_place", problem=first_line(error), **named) from error
    try:
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
            read_fields(folder / name, "it is cut")
        (folder / "tokenizer.json").stat()  # not read: it is long
        read_header(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise failure("not_whole", folder=folder, problem=first_line(error)) from error
    return folder


def build_base(
    out: Path,
    *,
    tower: str | None = None,
    decoder: str | None = None,
    crop_size: int = CROP_SIZE,
    num_crops: int = 1,
) -> None:
    """Build a base in bf16 in a new folder; what cannot be fetched or does not fit is an error.

    Args:
        out: Folder, not there or empty.
        tower: DINOv2 to take: hub id, folder, ONNX or wheel file.
        decoder: Llama-shaped decoder to take: hub id, folder, GGUF or wheel file.
        crop_size: Side of a crop in pixels.
        num_crops: Maximum crops of an image, besides its global view.
    """
    with atomic_folder(out, needed_bytes=NEEDED_BYTES) as folder:
        with temporary_folder(folder.parent) as scratch:
            sources = {"tower": tower, "decoder": decoder}
            found, held = dict[str, Found](), dict[str, Any]()
            patch, context = None if tower else PATCH, None if decoder else CONTEXT
            # Given ones first: one that does not fit is refused before anything is fetched.
            for part in sorted(sources, key=lambda each: sources[each] is None):
                check_crops(crop_size, num_crops, patch, context)
                found[part] = find_part(part, sources[part], scratch)
                held[part] = READERS[part](*found[part])
                patch = patch or held["tower"].config.patch_size  # a given tower is the first
                if part == "decoder":
                    context = held[part][0].config.max_position_embeddings
                logger.info("%s: %s, %s", part, found[part].origin, _licence(part, found[part]))
            model, processor = assemble(
                held["tower"], *held["decoder"], crop_size=crop_size, num_crops=num_crops
            )
            model.to(torch.bfloat16).save_pretrained(folder)
            processor.save_pretrained(folder)
            card = _describe(out.name, found, crop_size, num_crops)
        write_text(folder / "README.md", card)


def _describe(name: str, found: dict[str, Found], crop_size: int, num_crops: int) -> str:
    rows, notices = [], []
    for part, each in sorted(found.items(), reverse=True):
        file, *more = each.place.glob("*.safetensors") if each.place.is_dir() else [each.place]
        digest = "several files" if more else f"`{sha256(file.resolve())}` ({file.name})"
        rows.append(f"| {part} | {each.origin} | {digest} | {_licence(part, each)} |")
        if _is_known(part, each):
            notices.append(f"- {KNOWN[part]['notice']}")
    text = (Path(__file__).parent / "templates" / "photo_base_card.md").read_text(encoding="utf-8")
    return text.format(
        name=name,
        license="apache-2.0" if len(notices) == len(found) else "other",
        rows="\n".join(rows),
        notices="\n".join(notices) or "Those of the parts above.",
        crop_size=crop_size,
        num_crops=num_crops,
    )


def _licence(part: str, found: Found) -> str:
    return str(KNOWN[part]["licence"]) if _is_known(part, found) else "see its own folder"


def _is_known(part: str, found: Found) -> bool:
    known = KNOWN[part]
    is_hub = found.origin.partition(",")[0] == known["hub"]
    return is_hub or found.place.name == Path(known["file"]).name
