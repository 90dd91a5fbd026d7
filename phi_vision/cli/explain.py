"""`phi-vision explain`: crops, tokens and supervision of an image or a sample."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from phi_vision.cli.options import failure
from phi_vision.cli.reporting import CommandReport
from phi_vision.io.process import importing

if TYPE_CHECKING:
    from phi_vision.data.samples import Record, Sample
    from phi_vision.data.template import Template
    from phi_vision.training.recipes import Recipe

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def run(options: argparse.Namespace) -> CommandReport:
    """Show what the model reads: crops, image tokens, the sequence, and what is supervised."""
    _check_source(options)
    recipe = _chosen_recipe(options)
    with importing():
        from phi_vision.data.collator import CompletionCollator
        from phi_vision.data.explanation import explain
        from phi_vision.data.samples import withhold_images
        from phi_vision.model.checkpoint import (
            SMALL,
            adapter_base,
            load_config,
            load_processor,
            resolve,
        )

    model = options.model or (recipe.model if recipe else SMALL)
    data = options.data or (Path(recipe.data) if recipe and not options.images else None)
    place = resolve(model)
    config = load_config(adapter_base(place) or place)
    processor = load_processor(place, config)
    if options.num_crops is not None:
        processor.image_processor.num_crops = options.num_crops
    template = _chosen_template(options, model, recipe, data)
    sample = _read_sample(options, template, data)
    if recipe and recipe.withhold_images:
        sample = withhold_images([sample])[0]
    collator = CompletionCollator(
        processor=processor, template=template, max_length=recipe.max_length if recipe else None
    )
    has_record = bool(data or options.record)
    found = explain(collator, sample, config, has_record=has_record)
    about = {"model": str(model), "template": template.name}
    title = f"{sample.id} · model {model} · template {template.name}"
    lines = [title, *found.lines()]
    if not has_record:
        lines.append(f"no record, so nothing is supervised; --record shows {template.answer}")
    if options.out is not None:
        from phi_vision.data.explanation_drawing import draw
        from phi_vision.io.atomic import write_bytes
        from phi_vision.io.image_decoding import encode_image

        suffix = options.out.suffix.lower().removeprefix(".")
        form = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        write_bytes(options.out, encode_image(draw(found, title), form))
        lines.append(f"The drawing is {options.out}")
    return CommandReport(about | found.as_dict() | {"drawing": options.out}, lines)


def _check_source(options: argparse.Namespace) -> None:
    """Check that there is one source of images, and that options concern it."""
    from_data = options.data is not None or (options.recipe is not None and not options.images)
    if bool(options.images) == from_data:
        found = "IMAGE and --data" if options.images else "neither"
        raise failure("one_source", found=found)
    if options.images and options.sample is not None:
        raise failure("sample_of_image")
    if from_data and options.record:
        raise failure("record_of_data")
    if options.out is not None and options.out.suffix.lower() not in SUFFIXES:
        raise failure("no_drawing", out=options.out, suffixes=", ".join(SUFFIXES))


def _chosen_recipe(options: argparse.Namespace) -> "Recipe | None":
    if options.recipe is None:
        return None
    from phi_vision.cli.train import chosen_recipe

    recipe = chosen_recipe(argparse.Namespace(recipe=options.recipe))
    if not (recipe.data or options.data or options.images):
        raise failure("recipe_without_data", recipe=options.recipe)
    return recipe


def _chosen_template(
    options: argparse.Namespace, model: str, recipe: "Recipe | None", data: Path | None
) -> "Template":
    """Return the given template, else that of the recipe, the run, the data, or `product`."""
    from phi_vision.data.template import TEMPLATE_FILE, find_template
    from phi_vision.inference.local import DEFAULT_TEMPLATE, resolve_template

    given = options.template or (recipe.template if recipe else None)
    name = resolve_template(model, given)
    of_data = data is not None and (data / TEMPLATE_FILE).is_file()
    return find_template(str(data) if of_data and not given and name == DEFAULT_TEMPLATE else name)


def _read_sample(options: argparse.Namespace, template: "Template", data: Path | None) -> "Sample":
    """Read the images of the command line, with its record, or a sample of the data."""
    from phi_vision.data.dataset import load_samples
    from phi_vision.data.samples import Sample
    from phi_vision.io.image_decoding import open_image

    if data is None:
        for image in options.images:
            if Path(image).is_dir():
                raise failure("folder_to_explain", name=image)
            open_image(image)  # what cannot be read is named by its path
        encoded = [Path(image).read_bytes() for image in options.images]
        name = ", ".join(options.images)
        record = _read_record(options.record or [], template)
        return Sample(id=name, group=name, images=encoded, record=record)
    samples = load_samples(data, split=options.split)
    if options.sample is None:
        return samples[0]
    for sample in samples:
        if sample.id == options.sample:
            return sample
    known = ", ".join(sample.id for sample in samples[:3])
    raise failure("no_sample", sample=options.sample, data=data, known=known, count=len(samples))


def _read_record(words: list[str], template: "Template") -> "Record":
    """Read FIELD=VALUE words; a value is of its field's kind where it can be read so.

    Input:  ["title=Wool Coat", "full_price=390"]
    Output: {"title": "Wool Coat", "full_price": 390.0}
    """
    slots = {slot.field: slot for slot in template.parts[1]}
    record: dict[str, object] = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals or field not in slots:
            raise failure("no_value", word=word, fields=", ".join(slots))
        value: object = text
        with suppress(ValueError):
            value = float(text) if slots[field].kind == "number" else slots[field].read(text)
        record[field] = value
    return record  # type: ignore[return-value]
