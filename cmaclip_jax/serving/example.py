"""Asks an exported model about a picture and its words: python example.py mug.jpg 'a red mug'.

Either may be ''. It needs the files beside it, and `pip install jax flatbuffers numpy pillow
safetensors tokenizers`. Words beyond plain ASCII are repaired as the run did it if `ftfy` is there.

If `thresholds.json` is there, `judge` takes the probabilities to each task's temperature and says
which of them reach the threshold. These are the numbers that the run's own answers show.
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
from scipy.special import expit, softmax
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent


def main(picture: str, words: str) -> None:
    """Prints every task's label, its probability, and what the picture counted for."""
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
    answers, thresholds = jax.device_get(answer(parameters, batch)), read_thresholds()
    for task in tasks["tasks"]:
        said, weights = (answers[x][task["name"]][0] for x in ("probabilities", "modality_weights"))
        told = describe(task, said, thresholds.get(task["name"]))
        print(f"{task['name']}:" + (f" {told} (picture {weights[0]:.2f})" if any(weights) else ""))


def describe(task: dict, said: np.ndarray, thresholds: dict | None) -> str:
    """What a task's probabilities [C] mean: its labels, each with the probability that is shown."""
    shown, accepted, marks = said, np.zeros(len(said), bool), [""] * len(said)
    if thresholds:
        shown, accepted = judge(said, thresholds)
        marks = [" accepted" if stands else " held back" for stands in accepted]
    held = np.flatnonzero((said > 0.5) | accepted) if task["many"] else [said.argmax()]
    return ", ".join(f"{task['classes'][i]} {shown[i]:.6f}{marks[i]}" for i in held) or "none"


def read_thresholds() -> dict[str, dict]:
    """By task, what an answer needs to be accepted; empty where the run had none."""
    file = FOLDER / "thresholds.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["thresholds"] if file.exists() else []
    return {row["task"]["name"]: row for row in rows}


def judge(probabilities: np.ndarray, thresholds: dict) -> tuple[np.ndarray, np.ndarray]:
    """A task's float32 probabilities [C] at its temperature, and which reach their threshold.

    The computation is in float64 and its result float32, as the run does it. The module's
    probabilities may be 0 or 1; they are taken for the nearest number that has a logarithm.
    """
    task, kind = thresholds["task"], np.finfo(np.float32)
    present = np.maximum(probabilities.astype(np.float64), kind.tiny)
    scores = np.log(present)
    if task["many"]:
        scores = scores - np.log(np.maximum(1 - present, kind.eps / 4))
    scores = scores / thresholds["temperature"]
    scaled = (expit(scores) if task["many"] else softmax(scores)).astype(np.float32)
    kept = [thresholds["classes"].get(name, thresholds["overall"]) for name in task["classes"]]
    least = [np.inf if row["value"] is None else row["value"] for row in kept]
    return scaled, scaled >= np.array(least, np.float32)


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
