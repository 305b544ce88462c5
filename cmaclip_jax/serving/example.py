"""Asks an exported model about a picture and its words: python example.py mug.jpg 'a red mug'.

Either may be ''. It needs the files beside it, and `pip install jax flatbuffers numpy pillow
safetensors tokenizers`. Words beyond plain ASCII are repaired as the run did it if `ftfy` is there.

By `thresholds.json` (if there is one) an answer is accepted whose probability p, taken to its
task's `temperature` T (softmax(log(p) / T); of many labels sigmoid(logit(p) / T)), reaches the
`value` of its class under `classes`, or else that of `overall`; null accepts nothing.
"""

import html
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export
from PIL import Image, ImageOps
from safetensors.numpy import load_file
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent


def main(picture: str, words: str) -> None:
    """Prints every task's label and probability, and what the picture counted for."""
    about, tasks = (
        json.loads((FOLDER / f"{name}.json").read_text()) for name in ("export", "tasks")
    )
    module = export.deserialize(bytearray((FOLDER / "model.stablehlo").read_bytes()))
    answer = jax.jit(module.call)  # compiles for every new number of pairs
    parameters = jax.device_put(load_file(FOLDER / "parameters.safetensors"))
    size = about["image_size"]
    batch = {
        "image": (prepare(picture, size) if picture else np.zeros((size, size, 3), np.uint8))[None],
        "has_image": np.array([bool(picture)]),
        "tokens": tokenize(words, about)[None],
        "has_text": np.array([bool(clean(words, about))]),
    }
    answers = jax.device_get(answer(parameters, batch))
    for task in tasks["tasks"]:
        name, probabilities = task["name"], answers["probabilities"][task["name"]][0]
        weights = answers["modality_weights"][name][0]
        chosen = np.flatnonzero(probabilities > 0.5) if task["many"] else [probabilities.argmax()]
        said = ", ".join(f"{task['classes'][i]} {probabilities[i]:.6f}" for i in chosen)
        print(
            f"{name}: {said or 'none'} (picture {weights[0]:.2f})" if any(weights) else f"{name}:"
        )


def prepare(picture: str, size: int) -> np.ndarray:
    """uint8 [size,size,3]: the shorter side made `size` (bicubic), then the middle square."""
    image = ImageOps.exif_transpose(Image.open(picture))
    if image.mode.startswith("I"):  # 16-bit greys
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def tokenize(words: str, about: dict) -> np.ndarray:
    """int32 [text_length]: start, the words, end; padded with the end, which a long text keeps."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(clean(words, about), add_special_tokens=False).ids
    ids = ids[: about["text_length"] - 2]
    tokens = np.full(about["text_length"], about["end_token"], np.int32)
    tokens[0], tokens[1 : 1 + len(ids)] = about["start_token"], ids
    return tokens


def clean(words: str, about: dict) -> str:
    """Repaired, HTML unescaped (twice), single spaces; first as a web page's title, where it is."""
    if about["cleaning"] == "titles":
        from titles import clean_title  # beside this file where it is needed

        words = clean_title(words)
    if not (words.isascii() and words.isprintable() and "&" not in words):
        try:
            from ftfy import fix_text
        except ImportError:
            fix_text = str
        words = html.unescape(html.unescape(fix_text(words)))
    return " ".join(words.split())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
