"""The words of the toy rows: what `conftest.py` makes batches of and the tests ask."""

import torch

Inputs = dict[str, torch.Tensor]

ONE = "<|user|>\n<|image_1|>\nWhat is it?<|end|>\n<|assistant|>\n"
TWO = "<|user|>\n<|image_1|> and <|image_2|>, which is the dearer one?<|end|>\n<|assistant|>\n"
NONE = "<|user|>\nHello<|end|>\n<|assistant|>\n"
