"""cmaclip convert: other people's CLIP checkpoints into a folder of ours, and back."""

import argparse
import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.errors import UserError
from cmaclip_jax.screen import Screen

HELP = """\
Reads a CLIP checkpoint without PyTorch and writes it as a folder that this project, Hugging
Face's transformers or OpenCLIP loads.

--source takes a folder (Hugging Face, OpenCLIP, or one converted before), a file
(.safetensors, .msgpack, .bin, OpenAI's .pt), a name on the Hugging Face hub, or the folder
of a run, whose trained encoders are taken.

--to=peft writes the adapters of a run that was trained with model.lora, in the format of
Hugging Face's PEFT, with fusion and heads in a file beside them.
"""

FORMATS = ("ours", "huggingface", "openclip", "peft")


def run(arguments: list[str]) -> None:
    """Reads the arguments and converts."""
    parser = make_parser("convert", HELP)
    parser.add_argument("--source", required=True, help="the checkpoint to read")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.add_argument("--to", choices=FORMATS, default="ours", help="whose format")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the tokenizer's files")
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        default="",
        help="of the network, for files that do not name it",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with the source under PyTorch"
    )
    convert(parser.parse_args(arguments))


def convert(options: argparse.Namespace) -> None:
    """Reads the checkpoint, describes it, and writes all of it or nothing."""
    # the imports below take seconds
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.runs.adapter_folder import convert_adapters
    from cmaclip_jax.runs.pretrained import clip_tokenizer, read_clip
    from cmaclip_jax.training.workdir import run_folder
    from cmaclip_jax.weights.description import describe_towers
    from cmaclip_jax.weights.verify import verify
    from cmaclip_jax.weights.writer import check_new_folder, write_folder

    screen = Screen(sys.stdout)
    check_new_folder(options.output)
    screen.entry("reading", options.source)
    if options.to == "peft":
        if options.verify or options.tokenizer or options.activation:
            raise UserError("--to=peft takes --source and --output alone")
        screen.entry("found", convert_adapters(run_folder(options.source), options.output))
        _list_files(screen, options.output)
        return
    weights = read_clip(options.source, options.activation)
    tokenizer = clip_tokenizer(weights, options.tokenizer)
    if options.tokenizer and tokenizer is None:
        raise UserError(f"{options.tokenizer} has no tokenizer.json, nor vocab.json and merges.txt")
    screen.entry("found", weights.found)
    for name, value in describe_towers(weights.model):
        screen.entry(name, value)
    screen.entry("parameters", f"{parameter_count(weights.params):,}")
    missing = "none beside the weights; to read texts, add --tokenizer=FOLDER"
    screen.entry("tokenizer", f"{tokenizer.vocabulary:,} tokens" if tokenizer else missing)
    if options.verify:
        screen.entry("verified", verify(weights))
    screen.entry("writing", options.output)
    write_folder(options.output, options.to, weights, tokenizer)
    _list_files(screen, options.output)


def _list_files(screen: Screen, folder: Path) -> None:
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    screen.entry("written", f"{folder}: {files}")
