"""The two graphs that onnxruntime-genai needs beside the decoder: images and tokens -> embeddings.

They have no loop over images and no branch on values, so that one trace holds for any number of
images and crops. N images, K crops of the image with most (global view included), S side of a crop
in pixels, T image tokens of all images, H hidden size.
"""

import logging
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from phi_vision.model.modeling_phi3_v import Phi3VImageEmbedding

OPSET = 20
"""Version of ONNX's operators: the first with GELU as one operator."""


class VisionGraph(nn.Module):
    """Crops to embeddings: `Phi3VImageEmbedding` as one gather from a table."""

    def __init__(self, embedding: Phi3VImageEmbedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
        """Embed the images.

        Input:  pixel_values (N, K, 3, S, S), per image its global view, its crops and then zeros;
                image_sizes (N, 2), height and width in pixels after padding
        Output: (T, H), image by image
        """
        embedding = self.embedding
        grids_N2 = image_sizes // embedding.crop_size
        used_NK = torch.arange(pixel_values.shape[1])[None] <= grids_N2.prod(1, keepdim=True)
        features = embedding.img_processor(pixel_values.flatten(0, 1)[used_NK.flatten()])
        patches = embedding._merge_2x2(features).flatten(0, 2)
        separators = [embedding.sub_GN.flatten(0, 2), embedding.glb_GN.flatten(0, 1)]
        table = torch.cat([*separators, patches])
        side = embedding.patches // 2
        arranged = table[_reading_order(grids_N2, side, used_NK.shape[1])]
        projected: torch.Tensor = embedding.img_projection(arranged)
        return projected


def _reading_order(grids_N2: torch.Tensor, side: int, most_crops: int) -> torch.Tensor:
    """Return the table entry of each image token.

    The table holds `sub_GN`, `glb_GN`, then the merged patches of all crops in use.

    Input:  one image of 1 x 2 crops, 1 x 1 merged patches each: its global view is entry 2, its
            crops are 3 and 4
    Output: [3, 4, 0, 1, 2, 0]: the crops as one image with the end of its row, the separator, the
            global view with the end of its row
    """
    rows, columns = grids_N2[:, :1], grids_N2[:, 1:]
    counts = rows * columns + 1
    first = 2 + (counts.cumsum(0) - counts) * side**2
    place = torch.arange(most_crops * side * (side + 1) + 1)[None]

    line, at = place // (columns * side + 1), place % (columns * side + 1)
    crop = line // side * columns + at // side + 1
    patch = first + crop * side**2 + line % side * side + at % side
    crops = torch.where(at == columns * side, 0, patch)

    before = rows * side * (columns * side + 1)
    line, at = (place - before - 1) // (side + 1), (place - before - 1) % (side + 1)
    view = torch.where(at == side, 0, first + line * side + at)

    order = torch.where(place < before, crops, torch.where(place == before, 1, view))
    return order[place < before + 1 + side * (side + 1)]


class EmbeddingGraph(nn.Module):
    """Token ids to embeddings, with those of the images in place of negative ids."""

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, input_ids: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """Embed tokens, and insert the image embeddings in the order of the text.

        Input:  input_ids (B, L), image_features (T, H); T = 0 after the prompt
        Output: (B, L, H)
        """
        is_image = input_ids < 0
        embedded = self.tokens(input_ids.clamp(min=0))
        # The first entry of the table means "no image"; with T = 0 it is the only one.
        table = torch.cat([torch.zeros_like(embedded[:1, 0]), image_features])
        number = is_image.flatten().long().cumsum(0).reshape(is_image.shape)
        return torch.where(is_image[..., None], table[number * is_image], embedded)


@torch.no_grad()
def write_vision_graph(embedding: Phi3VImageEmbedding, file: Path) -> None:
    """Trace the embedding of images into an ONNX file, with its weights in a file beside it."""
    size = embedding.crop_size
    # Two images of different shapes, so that the trace takes no size for a constant.
    pixels = torch.zeros(2, 5, 3, size, size)
    sizes = torch.tensor([[2 * size, 2 * size], [size, 3 * size]])
    shapes = {
        "pixel_values": {0: Dim("num_images"), 1: Dim("max_num_crops")},
        "image_sizes": {0: Dim("num_images")},
    }
    _write(VisionGraph(embedding), (pixels, sizes), shapes, "image_features", file)


@torch.no_grad()
def write_embedding_graph(tokens: nn.Embedding, file: Path) -> None:
    """Trace the embedding of tokens into an ONNX file, with its weights in a file beside it."""
    ids = torch.tensor([[1, -1, -1, 5], [1, 3, 4, 5]])
    features = torch.zeros(2, tokens.embedding_dim)
    shapes = {
        "input_ids": {0: Dim("batch_size"), 1: Dim("sequence_length")},
        "image_features": {0: Dim("num_image_tokens")},
    }
    _write(EmbeddingGraph(tokens), (ids, features), shapes, "inputs_embeds", file)


def _write(
    graph: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    shapes: dict[str, dict[int, Dim]],
    output: str,
    file: Path,
) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # The exporter warns of torchvision and of merged names.
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                graph.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(shapes),
                output_names=[output],
                dynamic_shapes=shapes,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    # The exporter records in each node the source files and lines of this machine.
    for node in program.model.graph:
        node.metadata_props.clear()
    program.save(file, external_data=True)
