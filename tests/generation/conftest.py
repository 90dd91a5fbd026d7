"""The tiny model of `toy_model`."""

from toy_model import _loaded, batch_of_rows, images, model, processor, rows, short_context

__all__ = [
    "_loaded",
    "batch_of_rows",
    "images",
    "model",
    "processor",
    "rows",
    "short_context",
]
