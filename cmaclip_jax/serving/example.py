"""Answers a picture and its words with an exported model: python example.py mug.jpg 'a red mug'.

Either may be ''. The example needs the files beside it, and `pip install numpy pillow`; a model in
ONNX also needs `onnxruntime`, and one in StableHLO `jax flatbuffers safetensors`. Without
`byte_pairs.py` beside it, the tokenizer is not of CLIP's kind and needs `tokenizers`. With `ftfy`
installed, the example repairs words beyond ASCII as the run did.

If there is a `thresholds.json`, `judge` scales the probabilities by each task's temperature and
compares them with the thresholds. These are the numbers that the answers of the run show.
"""

import html
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent


def main(picture: str, words: str) -> None:
    """Prints the label, its probability and the weight of the picture, for every task."""
    from model import open_model  # the file beside this one

    about, tasks = (
        json.loads((FOLDER / f"{name}.json").read_text()) for name in ("export", "tasks")
    )
    size = about["image_size"]
    batch = {
        "image": (prepare(picture, size) if picture else np.zeros((size, size, 3), np.uint8))[None],
        "has_image": np.array([bool(picture)]),
        "tokens": tokenize(words, about)[None],
        "has_text": np.array([bool(clean(words, about))]),
    }
    answers, thresholds = open_model(FOLDER)(batch), read_thresholds()
    for task in tasks["tasks"]:
        name, line = task["name"], f"{task['name']}:"
        probabilities, weights = (
            answers[x][name][0] for x in ("probabilities", "modality_weights")
        )
        if any(weights):
            labels = describe(task, probabilities, thresholds.get(name))
            line += f" {labels} (picture {weights[0]:.2f})"
        print(line)


def describe(task: dict, probabilities: np.ndarray, thresholds: dict | None) -> str:
    """The labels that a task's probabilities [C] decide for, each with its probability."""
    scaled, accepted = probabilities, np.zeros(len(probabilities), bool)
    marks = [""] * len(probabilities)
    if thresholds:
        scaled, accepted = judge(probabilities, thresholds)
        marks = [" accepted" if x else " held back" for x in accepted]
    yes = np.flatnonzero((probabilities > 0.5) | accepted)
    places = yes if task["many"] else [probabilities.argmax()]
    return ", ".join(f"{task['classes'][i]} {scaled[i]:.6f}{marks[i]}" for i in places) or "none"


def read_thresholds() -> dict[str, dict]:
    """{task: its thresholds}; empty if the run has none."""
    file = FOLDER / "thresholds.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["thresholds"] if file.exists() else []
    return {row["task"]["name"]: row for row in rows}


def judge(probabilities: np.ndarray, thresholds: dict) -> tuple[np.ndarray, np.ndarray]:
    """A task's float32 probabilities [C] at its temperature, and which reach their threshold."""
    from temperature import scale  # this file comes with the thresholds

    task, by_class = thresholds["task"], thresholds["classes"]
    scaled = scale(probabilities, thresholds["temperature"], task["many"])
    values = [by_class.get(name, thresholds["overall"])["value"] for name in task["classes"]]
    least = [np.inf if value is None else value for value in values]
    return scaled, scaled >= np.array(least, np.float32)


def prepare(picture: str, size: int) -> np.ndarray:
    """uint8 [size,size,3]: the shorter side scaled to `size` (bicubic), then the middle square."""
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
    """int32 [text_length]: start, the words, end, and padding; long texts are cut."""
    before, after = about["frame"]["before"], about["frame"]["after"]
    room = about["text_length"] - len(before) - len(after)
    framed = before + word_ids(clean(words, about))[:room] + after
    tokens = np.full(about["text_length"], about["padding"], np.int32)
    tokens[: len(framed)] = framed
    return tokens


def word_ids(words: str) -> list[int]:
    """The ids of cleaned words, without the tokens around them."""
    file = FOLDER / "tokenizer.json"
    if (FOLDER / "byte_pairs.py").exists():
        from byte_pairs import BytePairs  # the file beside this one

        return BytePairs(file).encode(words)
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(file))
    backend.no_truncation()
    backend.no_padding()
    return backend.encode(words, add_special_tokens=False).ids


def clean(words: str, about: dict) -> str:
    """The words cleaned as the run cleaned them: titles first, then as the text encoder wants."""
    steps = about["cleaning"].split("+")
    if "titles" in steps:
        from titles import clean_title  # beside this file where it is needed

        words = repaired(clean_title(words))
    if steps[-1].startswith("siglip"):
        from siglip_texts import canonical, lowered  # beside this file where it is needed

        return canonical(words) if steps[-1] == "siglip" else lowered(words)
    return words if "titles" in steps else repaired(words)


def repaired(words: str) -> str:
    """The words repaired, HTML unescaped twice, with single spaces."""
    if not (words.isascii() and words.isprintable() and "&" not in words):
        try:
            from ftfy import fix_text  # optional: most titles need no repair
        except ImportError:
            fix_text = str
        words = html.unescape(html.unescape(fix_text(words)))
    return " ".join(words.split())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
