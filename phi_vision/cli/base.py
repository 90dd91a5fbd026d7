"""`phi-vision base`: a checkpoint to fine-tune, assembled from pre-trained parts."""

import argparse


def run(options: argparse.Namespace) -> None:
    """Assemble a base that has seen photographs and read English, for `--model`."""
    from phi_vision.model.photo_base import build_base

    build_base(
        options.out,
        tower=options.tower,
        decoder=options.decoder,
        crop_size=options.crop_size,
        num_crops=options.num_crops,
    )
    print(f"{options.out}: fine-tune it with `phi-vision train lora --model {options.out} …`")
