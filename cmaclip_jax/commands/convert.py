"""cmaclip convert: other people's CLIP checkpoints into a folder of ours, and back."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from cmaclip_jax.errors import UserError

HELP = """\
Reads a CLIP checkpoint without PyTorch and writes it as a folder that this project, Hugging
Face's transformers or OpenCLIP loads.

--source takes a folder (Hugging Face, OpenCLIP, or one converted before), a file
(.safetensors, .msgpack, .bin, OpenAI's .pt), or a name on the Hugging Face hub.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and converts."""
    parser = argparse.ArgumentParser(
        prog="cmaclip convert",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--source", required=True, help="the checkpoint to read")
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.add_argument("--to", choices=("ours", *WRITERS), default="ours", help="whose format")
    parser.add_argument("--tokenizer", type=Path, help="a folder with the tokenizer's files")
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        default="",
        help="for files that do not say which one they were trained with",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare with the source under PyTorch"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    convert(parser.parse_args(arguments))


def convert(options: argparse.Namespace) -> None:
    """Reads, tells what was found, writes all or nothing."""
    from cmaclip_jax.data.text import checkpoint_tokenizer
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.weights import read_weights

    if options.output.exists() and any(options.output.iterdir()):
        raise UserError(f"{options.output} is not empty; name another --output")
    say("reading", options.source)
    weights = read_weights(options.source, options.activation)
    tokenizer = checkpoint_tokenizer(options.tokenizer or weights.folder)
    if options.tokenizer and tokenizer is None:
        raise UserError(f"{options.tokenizer} has no tokenizer.json, nor vocab.json and merges.txt")
    if tokenizer and tokenizer.vocabulary > weights.model.text.vocabulary:
        raise UserError(
            f"the tokenizer has {tokenizer.vocabulary:,} tokens, the text tower "
            f"{weights.model.text.vocabulary:,}; they do not belong together"
        )
    say("found", weights.found)
    for line in tower_lines(weights.model):
        say(*line)
    say("parameters", f"{parameter_count(weights.params):,}")
    say(
        "tokenizer",
        f"{tokenizer.vocabulary:,} tokens"
        if tokenizer
        else "none beside the weights; texts will need --tokenizer=FOLDER",
    )
    if options.verify:
        say("verified", verify(weights))
    say("writing", options.output)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=options.output.parent, prefix=".converting-"
    ) as unfinished:
        folder = Path(unfinished) / "whole"
        folder.mkdir()
        {"ours": write_ours, **WRITERS}[options.to](folder, weights, tokenizer)
        if options.output.exists():
            options.output.rmdir()
        shutil.move(folder, options.output)
    say(
        "written",
        f"{options.output}: {', '.join(sorted(p.name for p in options.output.iterdir()))}",
    )


def say(what: str, *value) -> None:
    """One line of the account."""
    print(f"{what:11}", *value, flush=True)


def tower_lines(model) -> list[tuple[str, str]]:
    """What people want to know of the two encoders."""
    image, text = model.image, model.text
    return [
        (
            "image",
            f"{image.image_size} pixels in patches of {image.patch_size}, {image.layers} layers "
            f"of width {image.width}, {image.heads} heads, {image.activation}",
        ),
        (
            "text",
            f"{text.length} tokens of {text.vocabulary:,}, {text.layers} layers of width "
            f"{text.width}, {text.heads} heads, {text.activation}; read at "
            + ("the highest id" if text.pooling == "argmax" else f"the first {text.end_token}"),
        ),
        ("together", f"embeddings of {image.projection} numbers"),
    ]


def write_ours(folder: Path, weights, tokenizer) -> None:
    """A folder that `load_clip` and `config.model.pretrained` read."""
    from cmaclip_jax.weights import write_clip_folder

    write_clip_folder(folder, weights)
    if tokenizer:
        tokenizer.save(folder / "tokenizer.json")


def write_huggingface(folder: Path, weights, tokenizer) -> None:
    """A folder that `transformers.CLIPModel.from_pretrained` loads, tokenizer and all."""
    from cmaclip_jax.weights import huggingface

    write_json(folder, huggingface.config_files(weights.model))
    write_tensors(folder / "model.safetensors", weights, huggingface.ROWS)
    write_tokenizer(folder, weights, tokenizer)


def write_openclip(folder: Path, weights, tokenizer) -> None:
    """A folder that `open_clip.create_model('local-dir:FOLDER')` loads."""
    from cmaclip_jax.weights import openai, openclip

    write_json(folder, openclip.config_files(weights.model))
    write_tensors(folder / "open_clip_model.safetensors", weights, openai.ROWS)
    write_tokenizer(folder, weights, tokenizer)


WRITERS = {"huggingface": write_huggingface, "openclip": write_openclip}


def write_json(folder: Path, files: dict[str, dict]) -> None:
    """Every file by its name."""
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def write_tensors(file: Path, weights, rows) -> None:
    """The parameters as safetensors, under the names of `rows`."""
    from safetensors.numpy import save_file

    from cmaclip_jax.weights.layout import write_parameters

    tensors = write_parameters(weights.params, rows, weights.model)
    save_file(tensors, file, metadata={"format": "pt"})  # transformers asks for this mark


def write_tokenizer(folder: Path, weights, tokenizer) -> None:
    """The files that `transformers.AutoTokenizer` reads."""
    if tokenizer is None:
        return
    from transformers import PreTrainedTokenizerFast

    from cmaclip_jax.data.text import END, START

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=weights.model.text.length,
    ).save_pretrained(folder)


def verify(weights) -> str:
    """The largest differences to what Hugging Face's own network makes of the source."""
    import jax
    import numpy as np

    from cmaclip_jax.models.clip import clip_batch

    if not (weights.folder / "config.json").exists():
        return "no: transformers loads Hugging Face's folders alone"
    try:
        from transformers import BatchFeature, CLIPModel

        reference = CLIPModel.from_pretrained(weights.folder).eval()
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"--verify needs PyTorch and what transformers loads: {error}") from error
    model, random = weights.model, np.random.default_rng(0)
    batch = jax.tree.map(lambda x: np.array(x), clip_batch(model, 4))
    batch["image"] = random.integers(0, 256, batch["image"].shape).astype(np.uint8)
    words = random.integers(1, model.text.end_token - 1, batch["tokens"].shape)
    ends = np.arange(2, model.text.length, max(model.text.length // 5, 1))[:4, None]
    places = np.arange(model.text.length)
    batch["tokens"] = np.where(places < ends, words, model.text.end_token).astype(np.int32)
    image, text, aux = jax.jit(model.apply)({"params": weights.params}, batch)
    pixels = (batch["image"] / 255 - model.image.mean) / np.array(model.image.deviation)
    inputs = BatchFeature(
        {
            "pixel_values": pixels.transpose(0, 3, 1, 2).astype(np.float32),
            "input_ids": batch["tokens"].astype(np.int64),
        },
        tensor_type="pt",
    )
    theirs = reference(**inputs)
    unit_image, unit_text = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (image, text))
    differences = {
        "image": unit_image - theirs.image_embeds.detach().numpy(),
        "text": unit_text - theirs.text_embeds.detach().numpy(),
        "logits": np.exp(aux["logit_scale"]) * unit_image @ unit_text.T
        - theirs.logits_per_image.detach().numpy(),
    }
    return "largest difference " + ", ".join(
        f"{name} {np.abs(x).max():.1e}" for name, x in differences.items()
    )
