"""The mistakes of a newcomer's first hours: each message says what is wrong and what to type next.

Each command runs as typed, in a folder with the files of `desk`. docs/troubleshooting.md shows the
table; `make docs` writes it anew, with `python -m tests.cli.test_newcomer_errors`.
"""

import ast
import json
import re
import shlex
import socket
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from phi_vision.cli.main import COMMANDS, command_parser, front_parser, main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake, the command in which it is made, and parts of the message, in their order."""

    what: str
    typed: str
    says: Sequence[str]
    without: Sequence[str] = ()
    """Modules that are not installed."""
    variables: Mapping[str, str] = field(default_factory=dict)
    leaves: Sequence[str] = ()
    """Files that the message names."""


WORDS = [
    Mistake(
        what="A command is misspelt",
        typed="trian lora --data shop",
        says=["'trian' is unknown (did you mean train?)", "see `phi-vision --help`"],
    ),
    Mistake(
        what="An argument is missing",
        typed="train",
        says=["the following arguments are required: RECIPE", "see `phi-vision train --help`"],
    ),
    Mistake(
        what="A recipe is misspelt",
        typed="train lroa --data shop",
        says=["no recipe 'lroa' (did you mean lora?)", "`phi-vision train lora --data DATA`"],
    ),
    Mistake(
        what="An option is misspelt",
        typed="train lora --data shop --lerning-rate 1e-4",
        says=["unknown option --lerning-rate (did you mean --learning-rate?)"],
    ),
    Mistake(
        what="The dash of an option is that of a web page",
        typed="train lora –data shop",
        says=["unknown option –data (did you mean --data?)", "`phi-vision train --help`"],
    ),
    Mistake(
        what="Data stand without their option",
        typed="train lora shop",
        says=["'shop' is one too many beside RECIPE; name the option that it is for"],
    ),
    Mistake(
        what="A switch is given a value",
        typed="train lora --data shop --bf16 true",
        says=["--bf16 takes no value, leave true out; see `phi-vision train --help`"],
    ),
    Mistake(
        what="A variable of the shell is not set",
        typed="train lora --data ''",
        says=["an argument is empty (after --data)", "see `phi-vision train --help`"],
    ),
    Mistake(
        what="The folder to write is a link",
        typed="train lora --data shop --output-dir https://shop.example/run",
        says=["--output-dir: 'https://shop.example/run' is a link, not a path on this machine"],
    ),
    Mistake(
        what="A recipe is in capitals",
        typed="train LORA --data shop",
        says=["no recipe 'LORA' (did you mean lora?)", "`phi-vision train lora --data DATA`"],
    ),
    Mistake(
        what="An option has its name in other tools",
        typed="train lora --data shop --lr 1e-4",
        says=["unknown option --lr (did you mean --learning-rate?)"],
    ),
    Mistake(
        what="A device is named",
        typed="train lora --data shop --device cuda",
        says=["unknown option --device (a GPU is used where PyTorch finds one", "leave it out"],
    ),
    Mistake(
        what="4 bits are asked for with an option",
        typed="train lora --data shop --load-in-4bit",
        says=[
            "unknown option --load-in-4bit (the recipe qlora",
            "`phi-vision train qlora --data DATA`",
        ],
    ),
    Mistake(
        what="A number is a word",
        typed="train lora --data shop --num-train-epochs many",
        says=["argument --num-train-epochs: 'many' is not a number; see `phi-vision train --help`"],
    ),
    Mistake(
        what="No step is left to train",
        typed="train lora --data shop --max-steps 0",
        says=["max_steps is 0; it must be at least 1: change --max-steps"],
    ),
    Mistake(
        what="No sample is left to evaluate",
        typed="evaluate phi-vision-small --data shop --out new --limit 0",
        says=["limit is 0; it must be at least 1: leave --limit out"],
    ),
    Mistake(
        what="fp16 is asked for",
        typed="train lora --data shop --fp16 true",
        says=["fp16 cannot be set: matrix products are computed in bfloat16", "--bf16"],
    ),
    Mistake(
        what="An option belongs to another recipe",
        typed="train full --data shop --r 8",
        says=["r is 8, but method full trains no adapters", "`phi-vision train lora`"],
    ),
    Mistake(
        what="A GPU is unknown to `plan`",
        typed="plan lora --data shop --gpu A1000",
        says=["no GPU 'A1000'; choose one of cpu, T4", "for --gpu"],
    ),
    Mistake(
        what="A template is misspelt",
        typed="predict phi-vision-small coat.png --template prodct",
        says=["no template 'prodct' (did you mean product?)", "see `phi-vision predict --help`"],
    ),
]
"""In the words of the command."""

DATA = [
    Mistake(
        what="The name of a file is misspelt",
        typed="prepare produts.csv --out new",
        says=[
            "no data at produts.csv: there is no such file or folder; did you mean products.csv?",
            "Type `phi-vision prepare products.csv --out FOLDER`",
        ],
    ),
    Mistake(
        what="A spreadsheet is an Excel workbook",
        typed="prepare products.xlsx --out new",
        says=[
            "cannot read products.xlsx: it is an Excel workbook; save the sheet as CSV in UTF-8",
            "`phi-vision prepare products.csv --out FOLDER`",
        ],
    ),
    Mistake(
        what="The data are in a zip archive",
        typed="prepare photos.zip --out new",
        says=[
            "cannot read photos.zip: it is a zip archive",
            "`unzip photos.zip -d photos`",
            "`phi-vision prepare photos --out FOLDER`",
        ],
    ),
    Mistake(
        what="The data are in another archive",
        typed="prepare photos.7z --out new",
        says=[
            "it is an archive",
            "`7z x photos.7z -ophotos`",
            "`phi-vision prepare photos --out FOLDER`",
        ],
    ),
    Mistake(
        what="The data are a link",
        typed="prepare https://shop.example/products.csv --out new",
        says=[
            "cannot read https://shop.example/products.csv over the network",
            "`curl -LO https://shop.example/products.csv`",
            "`phi-vision prepare FILE --out FOLDER`",
        ],
    ),
    Mistake(
        what="The data are the page of a hub dataset",
        typed="prepare https://huggingface.co/datasets/owner/name --out new",
        says=["name it by its id: `phi-vision prepare owner/name --out FOLDER`"],
    ),
    Mistake(
        what="No file matches a pattern",
        typed="prepare 'shop-*.csv' --out new",
        says=[
            "no file matches the pattern shop-*.csv",
            "`phi-vision prepare 'shop-*.csv' --out FOLDER`",
        ],
    ),
    Mistake(
        what="A folder is given where a path of columns is meant",
        typed="prepare products.csv --images images --out new",
        says=["there is no column 'images'", "or --images 'FOLDER/{COLUMN}.jpg'"],
    ),
    Mistake(
        what="A download is a web page",
        typed="prepare login.csv --out new",
        says=["login.csv: it is a web page, as a failed download leaves", "`curl -LO URL`"],
    ),
    Mistake(
        what="A file is empty",
        typed="prepare empty.csv --out new",
        says=["empty.csv is empty: found 0 bytes", "`phi-vision prepare empty.csv --out FOLDER`"],
    ),
    Mistake(
        what="A folder has no data",
        typed="prepare notes --out new",
        says=["no data in notes: found .txt", "`phi-vision prepare products.csv --out FOLDER`"],
    ),
    Mistake(
        what="A hub dataset cannot be fetched",
        typed="prepare nobody/nothing --out new",
        says=[
            "cannot load 'nobody/nothing' through `datasets`",
            "check the id and the network",
            "`hf download nobody/nothing --repo-type dataset --local-dir FOLDER`",
        ],
    ),
    Mistake(
        what="A table has no images",
        typed="prepare textonly.csv --out new",
        says=["no column holds images; found name, price", "map it with --map image=COLUMN"],
    ),
    Mistake(
        what="Images have no words beside them",
        typed="prepare images --out new",
        says=[
            "images holds images and no words about them",
            "move them into a folder of each category, such as images/coats",
            "`phi-vision prepare images --out FOLDER`",
        ],
    ),
    Mistake(
        what="A table has no first line with the names of its columns",
        typed="prepare headless.csv --out new",
        says=[
            "found Coat 1, coats",
            "--map title=COLUMN",
            "write a first line that names the columns",
        ],
    ),
    Mistake(
        what="A table has an unusual separator",
        typed="prepare glued.csv --out new",
        says=["no column holds images", "if that is a whole line, save the table with commas"],
    ),
    Mistake(
        what="A column is misspelt",
        typed="prepare products.csv --map image=foto --out new",
        says=[
            "--map image=foto: there is no column 'foto'; found photo, name, type, price",
            "(did you mean photo?); type --map image=COLUMN",
        ],
    ),
    Mistake(
        what="A field is misspelt",
        typed="prepare german.csv --map titel=bezeichnung --out new",
        says=[
            "there is no field 'titel', and no column is found for title (did you mean title?)",
            "type --map title=bezeichnung",
        ],
    ),
    Mistake(
        what="A template needs a column that the table lacks",
        typed="prepare untitled.csv --template product --out new",
        says=["the template 'product' needs title", "found", "--map title=COLUMN"],
    ),
    Mistake(
        what="The paths of the images are wrong",
        typed="prepare lost.csv --out new",
        leaves=["new-rejected.parquet"],
        says=[
            "none of the 3 rows of lost.csv is usable: no such file",
            "--images 'images/{id}.jpg'",
            "check the columns (--map) and the images",
        ],
    ),
    Mistake(
        what="An encoding does not exist",
        typed="prepare products.csv --encoding utf9 --out new",
        says=["--encoding utf9: there is no such encoding", "such as utf-8, cp1250"],
    ),
    Mistake(
        what="The format of a file is misspelt",
        typed="prepare products.csv --kind cvs --out new",
        says=["no kind of source 'cvs' (did you mean csv?)", "for --kind"],
    ),
    Mistake(
        what="The folder to write holds something else",
        typed="prepare products.csv --out notes",
        says=["notes was not written by `prepare` (it has no prepared.json)", "another --out"],
    ),
    Mistake(
        what="The folder to write is around the data",
        typed="prepare products.csv --out .",
        says=["the source products.csv contains the other; choose an --out beside it"],
    ),
    Mistake(
        what="Too few samples are drawn",
        typed="sample --rows 2 --out new",
        says=["a catalog of 2 rows cannot be split", "--rows"],
    ),
    Mistake(
        what="A folder may not be written",
        typed="sample --rows 60 --out /sys/shop",
        says=["'/sys/", "choose a folder that you may write, with --out"],
    ),
]
"""In the data, and in `prepare`."""

TRAINING = [
    Mistake(
        what="The data are forgotten",
        typed="train lora",
        says=["no data given; add --data", "`phi-vision sample --out FOLDER` draws some"],
    ),
    Mistake(
        what="The data do not exist",
        typed="train lora --data shp",
        says=[
            "no data at shp: there is no such file or folder (did you mean shop?)",
            "`phi-vision sample --out FOLDER`",
        ],
    ),
    Mistake(
        what="The data of a run are a link",
        typed="train lora --data https://shop.example/products.csv",
        says=[
            "cannot read https://shop.example/products.csv over the network",
            "`phi-vision prepare FILE --out FOLDER`",
            "`phi-vision prepare owner/name --out FOLDER`",
        ],
    ),
    Mistake(
        what="A recipe is a link",
        typed="train https://shop.example/recipe.yaml --data shop",
        says=[
            "no recipe 'https://shop.example/recipe.yaml'",
            "`phi-vision train lora --data DATA`",
        ],
    ),
    Mistake(
        what="A table is not prepared",
        typed="train lora --data products.csv",
        says=[
            "cannot read products.csv: found a file .csv",
            "`phi-vision prepare products.csv --out FOLDER`",
        ],
    ),
    Mistake(
        what="A folder of images is not prepared",
        typed="train lora --data images",
        says=["no data in images", "`phi-vision prepare images --out FOLDER`"],
    ),
    Mistake(
        what="There is one sample",
        typed="train lora --data single",
        says=["cannot hold out validation samples: all 1 samples", "--validation-fraction 0"],
    ),
    Mistake(
        what="A template does not fit the columns",
        typed="train lora --data shop --template weight.yaml",
        says=[
            "template 'weight' needs the field 'weight'; the record has id, group_id, title",
            "`phi-vision prepare SOURCE --out FOLDER --map weight=COLUMN`",
            "choose another --template",
        ],
    ),
    Mistake(
        what="Rows are longer than a limit of other recipes",
        typed="train lora --data shop --max-length 64",
        says=["20 of 20 samples have more than max_length 64 tokens", "raise --max-length"],
    ),
    Mistake(
        what="Adapters are put into layers of the tower alone",
        typed="train lora --data shop --target-modules q_proj v_proj",
        says=[
            "adapters on q_proj, v_proj reach no language-model layer, only the vision tower",
            "down_proj, gate_up_proj, o_proj, qkv_proj: name those with --target-modules",
        ],
    ),
    Mistake(
        what="A metric is misspelt",
        typed="train lora --data shop --metric-for-best-model acuracy",
        says=["metric_for_best_model is acuracy", "choose one of", "--metric-for-best-model"],
    ),
    Mistake(
        what="Preferences are trained without pairs",
        typed="train dpo --data shop",
        says=[
            "20 of 20 samples have no rejected completion",
            "`phi-vision pairs DATA --out FOLDER`",
        ],
    ),
    Mistake(
        what="A model is misspelt",
        typed="train lora --data shop --model phi-vision-smal",
        says=[
            "No model at 'phi-vision-smal': no such folder (did you mean phi-vision-small?)",
            "`phi-vision train lora --data DATA` makes a run",
        ],
    ),
    Mistake(
        what="A model cannot be fetched from the hub",
        typed="train lora --data shop --model microsoft/Phi-3-vison",
        says=[
            "'microsoft/Phi-3-vison' is no folder here, and fetching it from the hub failed",
            "Check the name and the network",
            "`hf download microsoft/Phi-3-vison --local-dir FOLDER`",
        ],
    ),
    Mistake(
        what="A model is of another kind",
        typed="train lora --data shop --model llama",
        says=[
            "llama holds a model of type 'llama', not 'phi3_v'",
            "`phi-vision base photo --out FOLDER`",
        ],
    ),
    Mistake(
        what="A table is paired",
        typed="pairs products.csv --out new",
        says=["cannot read products.csv", "`phi-vision prepare products.csv --out FOLDER`"],
    ),
    Mistake(
        what="The folder of the run is in use",
        typed="train lora --data shop --output-dir notes",
        says=["notes is not empty (it holds notes.txt)", "--output-dir", "--resume"],
    ),
    Mistake(
        what="There is no run to resume",
        typed="train lora --data shop --output-dir new --resume",
        says=["no run to resume: there is no new/recipe.yaml; check --output-dir"],
    ),
    Mistake(
        what="A run is resumed with another setting",
        typed="train lora --data shop --output-dir begun --learning-rate 1e-3 --resume",
        says=[
            "the run of begun/recipe.yaml has learning_rate 0.0002, this recipe 0.001",
            "`phi-vision train begun/recipe.yaml --resume`",
        ],
    ),
    Mistake(
        what="A recipe file has a misspelt field",
        typed="train typo.yaml --data shop",
        says=[
            "typo.yaml: no field 'lerning_rate'; did you mean 'learning_rate'?",
            "`phi-vision train --help`",
        ],
    ),
    Mistake(
        what="A recipe file does not exist",
        typed="train mine.yaml --data shop",
        says=["no recipe at mine.yaml", "`phi-vision train lora --data DATA`"],
    ),
    Mistake(
        what="The library for 4 bits is missing",
        typed="train qlora --data shop",
        says=["quantization nf4 needs bitsandbytes", "pip install 'phi-vision[quant]'"],
        without=["bitsandbytes"],
    ),
    Mistake(
        what="The library for preferences is missing",
        typed="train dpo --data shop",
        says=["objective dpo needs trl", "pip install 'phi-vision[dpo]'"],
        without=["trl"],
    ),
    Mistake(
        what="The library of a tracker is missing",
        typed="train lora --data shop --report-to tensorboard",
        says=["report_to tensorboard needs tensorboard", "pip install 'phi-vision[tensorboard]'"],
        without=["tensorboard"],
    ),
    Mistake(
        what="A variable of W&B is misspelt",
        typed="train lora --data shop --output-dir new",
        says=["WANDB_MODE is 'onlin'; choose one of", "'online'", "--report-to none"],
        variables={"WANDB_MODE": "onlin"},
    ),
]
"""In `train`."""

USE = [
    Mistake(
        what="An image is forgotten",
        typed="predict phi-vision-small",
        says=["the following arguments are required: IMAGE", "see `phi-vision predict --help`"],
    ),
    Mistake(
        what="The name of an image is misspelt",
        typed="predict phi-vision-small coat.pgn",
        says=[
            "no image at coat.pgn: found nothing (did you mean coat.png?)",
            "`phi-vision predict MODEL 'shoes/*.jpg'`",
        ],
    ),
    Mistake(
        what="A model is given as its page on the hub",
        typed="predict https://huggingface.co/owner/name coat.png",
        says=[
            "is a page of the hub; name the model by its id, owner/name",
            "see `phi-vision predict --help`",
        ],
    ),
    Mistake(
        what="One image is predicted into a table",
        typed="predict phi-vision-small coat.png --out new.parquet",
        says=[
            "--out takes one dataset or folder of images: found coat.png",
            "`phi-vision predict MODEL photos --out predictions.parquet`",
        ],
    ),
    Mistake(
        what="The image stands before the model",
        typed="predict coat.png phi-vision-small",
        says=["no image at phi-vision-small: found a model, which stands before the images"],
    ),
    Mistake(
        what="A server is asked for one image",
        typed="predict http://127.0.0.1:9/v1 coat.png",
        says=[
            "is a server",
            "`phi-vision predict http://127.0.0.1:9/v1 shop --out predictions.parquet`",
        ],
    ),
    Mistake(
        what="A server does not run",
        typed="predict http://127.0.0.1:9/v1 shop --out new.parquet",
        says=[
            "http://127.0.0.1:9/v1/models is not reachable",
            "`phi-vision serve MODEL --port 8000`",
        ],
    ),
    Mistake(
        what="An image is a link",
        typed="predict phi-vision-small https://shop.example/coat.jpg",
        says=["links are not fetched", "`curl -LO https://shop.example/coat.jpg`"],
    ),
    Mistake(
        what="An image is a web page",
        typed="predict phi-vision-small page.jpg",
        says=["page.jpg: not an image: found an HTML page", "`curl -LO URL`"],
    ),
    Mistake(
        what="An image is a PDF",
        typed="predict phi-vision-small coat.pdf",
        says=["coat.pdf: not an image: found a PDF", "`pdftoppm -png IN.pdf OUT`"],
    ),
    Mistake(
        what="An image is a drawing",
        typed="predict phi-vision-small logo.svg",
        says=["found an SVG drawing", "`rsvg-convert IN.svg -o OUT.png`", "give a JPEG, PNG"],
    ),
    Mistake(
        what="An image is a file of Photoshop",
        typed="explain coat.psd",
        says=["coat.psd: not an image: found a Photoshop file", "`magick 'IN.psd[0]' OUT.png`"],
    ),
    Mistake(
        what="An image is a video",
        typed="explain coat.mp4",
        says=["coat.mp4: not an image: found a video", "`ffmpeg -i IN -frames:v 1 OUT.png`"],
    ),
    Mistake(
        what="An image is a phone's HEIC",
        typed="predict phi-vision-small coat.heic",
        says=["coat.heic: not an image: found a photo in HEIC", "`heif-convert IN.heic OUT.jpg`"],
    ),
    Mistake(
        what="An image is cut",
        typed="predict phi-vision-small cut.jpg",
        says=["cut.jpg: truncated image: 400 bytes cannot be decoded", "`curl -LO URL`"],
    ),
    Mistake(
        what="A table is given for an image",
        typed="predict phi-vision-small products.csv",
        says=[
            "products.csv is no image: found a table",
            "`phi-vision prepare products.csv --out DATA`",
            "`phi-vision predict MODEL DATA --out predictions.parquet`",
        ],
    ),
    Mistake(
        what="A dataset is predicted without a file to write",
        typed="predict phi-vision-small shop",
        says=[
            "shop is no image: found samples in Parquet",
            "`phi-vision predict MODEL shop --out predictions.parquet`",
        ],
    ),
    Mistake(
        what="A folder has no image",
        typed="predict phi-vision-small notes",
        says=[
            "no image at notes: found a folder without any",
            "`phi-vision predict MODEL 'shoes/*.jpg'`",
        ],
    ),
    Mistake(
        what="Predictions are wanted as CSV",
        typed="predict phi-vision-small shop --out predictions.csv",
        says=["--out predictions.csv must be a .parquet file"],
    ),
    Mistake(
        what="An option needs a file to write",
        typed="predict phi-vision-small coat.png --keep sku",
        says=["--keep has no effect without --out"],
    ),
    Mistake(
        what="A precision is promised without an evaluation",
        typed="predict phi-vision-small coat.png --target-precision 0.95",
        says=["no precision can be promised for phi-vision-small", "leave --target-precision out"],
    ),
    Mistake(
        what="A run has no model yet",
        typed="predict begun coat.png",
        says=["The run in begun has no model yet", "`phi-vision train begun/recipe.yaml --resume`"],
    ),
    Mistake(
        what="What is evaluated is no run",
        typed="evaluate phi-vision-small --data shop",
        says=["phi-vision-small is not a run, so it has no place for a report; pass --out DIR"],
    ),
    Mistake(
        what="The name of a run is misspelt",
        typed="evaluate begn --data shop",
        says=["begn is not a run (did you mean begun?)", "pass --out DIR"],
    ),
    Mistake(
        what="Predictions are of other samples",
        typed="evaluate predictions.jsonl --data shop --split train --out new",
        says=[
            "predictions.jsonl holds no prediction for 20 of 20 samples",
            "it holds 1 others, such as 'coat'; write one line for each sample, with its id",
            "name their split with --split",
        ],
    ),
    Mistake(
        what="The data have no test split",
        typed="evaluate phi-vision-small --data shop --out new",
        says=[
            "no split 'test' in shop; it has train: name one with --split",
            "`phi-vision prepare SOURCE --out FOLDER --resplit`",
        ],
    ),
    Mistake(
        what="What is compared was not evaluated",
        typed="compare notes begun",
        says=[
            "no report in notes: it holds notes.txt",
            "`phi-vision evaluate notes --data DATA --out notes/report`",
        ],
    ),
    Mistake(
        what="A file is compared",
        typed="compare coat.png begun",
        says=["no report at coat.png: it is a file", "`phi-vision evaluate RUN --data DATA`"],
    ),
    Mistake(
        what="Nothing is given to explain",
        typed="explain",
        says=["explain shows one sample: found neither; give an IMAGE", "--data DIR"],
    ),
    Mistake(
        what="A folder is given to explain",
        typed="explain shop",
        says=["shop is a folder", "give an image in it", "`phi-vision explain --data shop`"],
    ),
    Mistake(
        what="An image has more crops than a model can have",
        typed="explain coat.png --num-crops 500",
        says=[
            "argument --num-crops: 500 is too large, it must be at most 256",
            "`phi-vision explain --help`",
        ],
    ),
]
"""In `predict`, `evaluate`, `compare` and `explain`."""

DEPLOYMENT = [
    Mistake(
        what="Data are exported for a model",
        typed="export shop --out new",
        says=[
            "shop is no checkpoint: it has no config.json, only",
            "`phi-vision train lora --data DATA` makes one",
        ],
    ),
    Mistake(
        what="The folder to export to holds something",
        typed="export phi-vision-small --out notes",
        says=["notes is not empty (it holds notes.txt); choose another folder with --out"],
    ),
    Mistake(
        what="The library for ONNX is missing",
        typed="export phi-vision-small --format onnx --out new",
        says=["needs onnxruntime_genai, which is not installed", "pip install 'phi-vision[onnx]'"],
        without=["onnxruntime_genai"],
    ),
    Mistake(
        what="A file is given for a model",
        typed="check coat.png",
        says=["No model at 'coat.png': it is a file", "`phi-vision train lora --data DATA`"],
    ),
    Mistake(
        what="The folder to write is below a file",
        typed="sample --rows 60 --out coat.png/shop",
        says=["File exists: '", "coat.png'; a file stands where a folder is needed", "--out"],
    ),
    Mistake(
        what="A model on the hub is checked",
        typed="check owner/name",
        says=["owner/name is no folder; `hf download owner/name --local-dir FOLDER` fetches it"],
    ),
    Mistake(
        what="A folder to check does not exist",
        typed="check lost",
        says=["No model at 'lost': no such folder", "`phi-vision train lora --data DATA`"],
    ),
    Mistake(
        what="A folder without a model is served",
        typed="serve notes --port 0",
        says=[
            "notes is no checkpoint: it has no config.json, only notes.txt",
            "`phi-vision train lora --data DATA` makes one",
        ],
    ),
    Mistake(
        what="The port is in use",
        typed="serve phi-vision-small --port 8000",
        says=["cannot listen on port", "of 127.0.0.1: Addr", "choose another --port"],
    ),
    Mistake(
        what="The file of the key does not exist",
        typed="serve phi-vision-small --key-file key.txt",
        says=["No such file or directory: 'key.txt'; check the path, as with `ls`"],
    ),
    Mistake(
        what="The file of the key is an image",
        typed="serve phi-vision-small --key-file coat.png",
        says=["the key", "control characters or non-ASCII", "`openssl rand -hex 32`"],
    ),
    Mistake(
        what="The libraries of the server are missing",
        typed="serve phi-vision-small",
        says=[
            "the server needs fastapi, which is not installed",
            "pip install 'phi-vision[serve]'",
        ],
        without=["fastapi"],
    ),
]
"""In `export`, `check` and `serve`."""

SECTIONS = {
    "words": WORDS,
    "data": DATA,
    "training": TRAINING,
    "use": USE,
    "deployment": DEPLOYMENT,
}
"""Section of the page -> its table."""
MISTAKES = [mistake for section in SECTIONS.values() for mistake in section]

OTHER_COMMANDS = {
    "7z",
    "curl",
    "ffmpeg",
    "git",
    "heif-convert",
    "hf",
    "ls",
    "magick",
    "openssl",
    "pdftoppm",
    "rsvg-convert",
    "unzip",
    "wandb",
}
STANDS_FOR = {"NAME": "product", "N": "8", "{target}": "0.95", "%s": "x", "%g": "0.95"}
"""Placeholder of a message -> what can be parsed in its place."""
COMMAND = re.compile(r"`phi-vision ([^`]*)`")
INSTALLED = re.compile(r"pip install 'phi-vision\[(\w+)\]'")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer's folder holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from toy_products import product_rows

    from phi_vision.training import trainer  # noqa: F401  (its libraries greet on stdout)
    from phi_vision.training.recipes import RECIPES, to_yaml

    desk = tmp_path_factory.mktemp("desk")
    for name in ("notes", "images", "shop", "single", "llama", "begun"):
        (desk / name).mkdir()
    Image.effect_noise((60, 40), 80).save(desk / "coat.png")
    for number in range(3):
        Image.effect_noise((60, 40), 80).save(desk / "images" / f"{number}.png")
    Image.effect_noise((90, 90), 80).save(desk / "cut.jpg")
    texts = {
        "notes/notes.txt": "buy milk",
        "llama/config.json": json.dumps({"model_type": "llama"}),
        "begun/recipe.yaml": to_yaml(
            replace(RECIPES["lora"](), data="shop", output_dir=Path("begun"))
        ),
        "typo.yaml": "method: lora\nlerning_rate: 0.0001\n",
        "weight.yaml": "question: How heavy is it?\nanswer: 'Weight: {weight:number}'\n",
        "products.csv": table("photo,name,type,price", "images/{}.png,Coat {},coats,{}0.00"),
        "german.csv": table("foto,bezeichnung,art,preis", "images/{}.png,Mantel {},coats,{}0.00"),
        "untitled.csv": table("photo,type,price", "images/{}.png,coats,{}0.00"),
        "lost.csv": table("photo,name,type,price", "photos/{}.png,Coat {},coats,{}0.00"),
        "textonly.csv": table("name,price", "Coat {},{}0.00"),
        "glued.csv": table("photo§name§price", "images/{}.png§Coat {}§{}0.00"),
        "login.csv": "<!doctype html><title>Sign in</title>",
        "predictions.jsonl": '{"id": "coat", "text": "Product: Coat"}',
        "page.jpg": "<!doctype html><title>Not found</title>",
        "coat.pdf": "%PDF-1.7",
        "logo.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "coat.psd": "8BPS",
        "coat.mp4": "\0\0\0\x18ftypmp42",
        "headless.csv": table("images/0.png,Coat 1,coats", "images/{}.png,Coat {},coats"),
        "empty.csv": "",
    }
    for name, text in texts.items():
        (desk / name).write_text(text, encoding="utf-8")
    (desk / "photos.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    (desk / "coat.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (desk / "cut.jpg").write_bytes((desk / "cut.jpg").read_bytes()[:400])
    for name, inside in {"products.xlsx": "xl/workbook.xml", "photos.zip": "coat.jpg"}.items():
        with zipfile.ZipFile(desk / name, "w") as archive:
            archive.writestr("[Content_Types].xml", "")
            archive.writestr(inside, "")
    for name, count in {"shop": 20, "single": 1}.items():
        samples = pa.Table.from_pylist(product_rows(count))
        pq.write_table(samples, desk / name / "train-00000-of-00001.parquet")
    return desk


def table(header: str, row: str) -> str:
    return "\n".join([header, *(row.replace("{}", str(number)) for number in range(1, 4)), ""])


@pytest.fixture(scope="module")
def busy_port() -> Iterator[str]:
    """A port at which a program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield str(other.getsockname()[1])


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_the_message_says_what_is_wrong_and_what_to_type(
    mistake: Mistake,
    desk: Path,
    busy_port: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "/sys" in mistake.typed and not Path("/sys").is_dir():
        pytest.skip("there is no /sys, where nobody may write")
    monkeypatch.chdir(desk)
    for module in mistake.without:
        monkeypatch.setitem(sys.modules, module, None)
    for name, value in mistake.variables.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(mistake.typed.replace("8000", busy_port))
    before = {*desk.rglob("*")}
    assert main(words) == 2
    printed = capsys.readouterr()
    *_, line = printed.err.splitlines()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    start, _, message = line.partition("phi-vision: error: ")
    assert start == ""
    assert re.search(".*".join(map(re.escape, mistake.says)), message), message
    assert next_steps(message, words[0]), message
    assert {*desk.rglob("*")} - before == {desk / name for name in mistake.leaves}


def next_steps(message: str, command: str) -> list[str]:
    """List what a message tells to type, all of which must exist.

    Input:  "add --data, such as `phi-vision sample --out FOLDER` draws", and the command "train"
    Output: ["sample --out FOLDER", "--data"]
    """
    steps = []
    for text in COMMAND.findall(message):
        steps += [text] * understood(text)
    rest = COMMAND.sub("", message)
    for text in re.findall(r"`([^`]+)`", rest):
        steps += [text] * (text.split()[0] in OTHER_COMMANDS)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extra in INSTALLED.findall(rest):
        assert extra in extras["optional-dependencies"]
        steps.append(extra)
    names = [command] if command in COMMANDS else []
    known = {each for name in names for each in command_parser(name)._option_string_actions}
    rest = re.sub(r"unknown option --\S+|`[^`]+`", "", rest)
    return steps + [option for option in OPTION.findall(rest) if option in known]


def understood(text: str) -> bool:
    """Parse a command of a message; return whether it is one to type, not only its name.

    Input:  train RECIPE --resume          export --format onnx
    Output: True                           False
    """
    words = [STANDS_FOR.get(word, word) for word in shlex.split(text) if word != "…"]
    if words[-1] == "--help":
        assert {*words[:-1]} <= {*COMMANDS}
        return True
    front_parser().read(words[:1])
    try:
        command_parser(words[0]).read(words[1:])
    except ValueError as error:
        if str(error).startswith("the following arguments are required"):
            return False
        raise
    return True


def texts_of_the_package() -> Iterator[tuple[str, str]]:
    """Yield each text in YAML and in code, such as an error or a docstring, and its file."""
    for file in sorted((ROOT / "phi_vision").rglob("*.yaml")):
        held = yaml.safe_load(file.read_text("utf-8"))
        yield from ((file.name, text) for text in leaves(held))
    for file in sorted((ROOT / "phi_vision").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield file.name, node.value


def leaves(held: object) -> Iterator[str]:
    if isinstance(held, dict | list):
        each = [*held, *held.values()] if isinstance(held, dict) else held
        for one in each:
            yield from leaves(one)
    elif isinstance(held, str):
        yield held


def test_every_command_in_a_text_of_the_package_exists() -> None:
    commands = [
        (file, command)
        for file, text in texts_of_the_package()
        for command in COMMAND.findall(" ".join(text.split()))
        if command.split()[0] not in ("COMMAND", "{command}")
    ]
    assert len(commands) > 80
    faults = []
    for file, command in commands:
        try:
            understood(command)
        except ValueError as error:
            faults.append(f"{file}: `phi-vision {command}`: {error}")
    assert faults == []


def test_a_message_without_anything_to_type_is_noticed() -> None:
    assert next_steps("no data; check the path", "train") == []
    assert next_steps("add --data; `phi-vision sample --out DIR` draws some", "train") == [
        "sample --out DIR",
        "--data",
    ]
    assert next_steps("unknown option --lr; see `phi-vision prepare`", "train") == []
    with pytest.raises(ValueError, match="unknown option --fast"):
        next_steps("type `phi-vision train lora --fast`", "train")


def test_there_are_enough_mistakes_and_no_two_are_the_same() -> None:
    assert len(MISTAKES) >= 30
    assert len({mistake.what for mistake in MISTAKES}) == len(MISTAKES)
    assert not [part for each in MISTAKES for part in each.says if part.count("`") % 2]


def with_tables(page: str) -> str:
    """Write the tables of `SECTIONS` into the page, between their marks."""
    for name, mistakes in SECTIONS.items():
        rows = ["| mistake | typed | message |", "|---|---|---|", *map(as_row, mistakes)]
        start, end = f"<!-- mistakes: {name} -->", "<!-- end of the mistakes -->"
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = "\n".join([before + start, *rows, end + after])
    return page


def as_row(mistake: Mistake) -> str:
    variables = [f"{name}={value}" for name, value in mistake.variables.items()]
    typed = " ".join([*variables, "phi-vision", mistake.typed])
    return f"| {mistake.what} | `{typed}` | {code(' … '.join(mistake.says))} |"


def code(text: str) -> str:
    """Format as code in Markdown, also what holds backticks."""
    if "`" not in text:
        return f"`{text}`"
    return f"`` {text} ``"


def test_the_page_lists_the_mistakes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run `make docs`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
