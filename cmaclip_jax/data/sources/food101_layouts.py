"""The layouts in which UPMC Food-101 is distributed, each read into `FoodPair`s.

    split file    split.json, text.json; pictures of train and val lie in images/train
    MMBT          train.jsonl, dev.jsonl, test.jsonl, each line with id, label, text, img
    UniS-MMC      train.csv, test.csv with the header id,text,annotation,label
    Kaggle        texts/train_titles.csv, texts/test_titles.csv without a header
    MMBT folders  texts_txt/LABEL/LABEL_N.txt, from which MMBT's lines are made

The first layout that fits is read. Layouts that users add to a download come before those that it
contains. Pictures are at images/{train,test}/LABEL/NAME. `tf.io.gfile` opens all files, so the
folder may be in a bucket.
"""

import concurrent.futures
import csv
import dataclasses
import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import SPLITS
from cmaclip_jax.errors import UserError

TEXTS_AT_ONCE = 32  # text files that are read at the same time


@dataclasses.dataclass(frozen=True)
class FoodPair:
    """The path of a picture, the title of its page, not yet cleaned, and the class."""

    id: str
    image: str
    title: str
    label: str | None


Splits = dict[str, list[FoodPair]]


def read_pairs(root: str, bad: BadRecords) -> Splits:
    """Every pair, by the first layout whose files all exist in the folder `root`."""
    for files, read in LAYOUTS.items():
        if all(tf.io.gfile.exists(os.path.join(root, file)) for file in files):
            return read(root, bad)
    looked = " | ".join(" + ".join(files) for files in LAYOUTS)
    raise UserError(
        f"no Food-101 in data.path={root!r}, which should hold one of: {looked}; let data.path be "
        "the folder that does"
    )


def read_split_file(root: str, bad: BadRecords) -> Splits:
    """`split.json` lists file names, `text.json` has their titles. A name contains the class."""
    splits = read_json(os.path.join(root, "split.json"))
    titles = read_json(os.path.join(root, "text.json"))
    if not isinstance(splits.get("train"), list):
        raise UserError(f"{root}/split.json has no list 'train'; get the file again")
    pairs: Splits = {split: [] for split in SPLITS if split in splits}
    for split in pairs:
        for name in map(str, splits[split]):
            label, title = name.rpartition("_")[0], titles.get(name)
            if not label:
                bad.fault(split, name, "no class in the file's name")
            elif title is None:
                bad.note(split, name, "not in text.json", "left out")
            else:
                folder = "test" if split == "test" else "train"
                path = image_path(root, folder, label, name)
                pairs[split].append(FoodPair(name, path, str(title), label))
    return pairs


def read_jsonl(root: str, bad: BadRecords) -> Splits:
    """`{train,dev,test}.jsonl`, with the picture's path relative to the folder."""
    pairs: Splits = {}
    for split, path in existing_paths(root, "{}.jsonl", train="train", val="dev", test="test"):
        pairs[split] = []
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if not line.strip():
                continue
            pair = parse_line(line, root)
            if pair is None:
                bad.fault(split, f"line {number}", "not a JSON object with label and img")
            else:
                add_if_titled(pairs[split], pair, split, bad)
    return pairs


def parse_line(line: str, root: str) -> FoodPair | None:
    """The pair in one line of JSON; None if it is malformed."""
    try:
        fields = json.loads(line)
        label, image, title = fields["label"], fields["img"], fields.get("text") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not all(isinstance(part, str) for part in (label, image, title)) or not (label and image):
        return None
    return FoodPair(str(fields.get("id", image)), os.path.join(root, image), title, label)


def read_folders(root: str, bad: BadRecords) -> Splits:
    """`texts_txt/LABEL/LABEL_N.txt` for every picture in `images/SPLIT/LABEL`."""
    pairs: Splits = {}
    for split, folder in existing_paths(root, "images/{}", train="train", test="test"):
        pairs[split] = []
        labels = visible_names(folder)
        names = [(label, name) for label in labels for name in visible_names(folder, label)]
        texts = [
            os.path.join(root, "texts_txt", label, f"{os.path.splitext(name)[0]}.txt")
            for label, name in names
        ]
        with concurrent.futures.ThreadPoolExecutor(TEXTS_AT_ONCE) as pool:
            for (label, name), text in zip(names, pool.map(read_if_there, texts), strict=True):
                pair = FoodPair(name, image_path(root, split, label, name), text, label)
                add_if_titled(pairs[split], pair, split, bad)
    return pairs


def read_csv_files(
    pattern: str, columns: Sequence[str], header: Sequence[str], root: str, bad: BadRecords
) -> Splits:
    """Tables of train and test, whose paths are `pattern`; see `read_csv`."""
    files = existing_paths(root, pattern, train="train", test="test")
    return {split: read_csv(root, path, split, bad, columns, header) for split, path in files}


UNIS_MMC, KAGGLE = ("id", "text", "annotation"), ("image", "title", "class")  # columns
Reader = Callable[[str, BadRecords], Splits]
LAYOUTS: dict[tuple[str, ...], Reader] = {  # by the files that identify a layout
    ("split.json", "text.json"): read_split_file,
    ("train.jsonl",): read_jsonl,
    ("train.csv",): functools.partial(read_csv_files, "{}.csv", UNIS_MMC, ()),
    ("texts/train_titles.csv",): functools.partial(
        read_csv_files, "texts/{}_titles.csv", KAGGLE, KAGGLE
    ),
    ("texts_txt", "images/train"): read_folders,
}


def add_if_titled(pairs: list[FoodPair], pair: FoodPair, split: str, bad: BadRecords) -> None:
    """Adds a pair that has a title. Others are listed and left out, as in MMBT."""
    if pair.title.strip():
        pairs.append(pair)
    else:
        bad.note(split, pair.id, "no text", "left out, as MMBT does")


def read_csv(
    root: str,
    path: str,
    split: str,
    bad: BadRecords,
    columns: Sequence[str],
    header: Sequence[str],
) -> list[FoodPair]:
    """The pairs of a table whose `columns` are the picture's file name, the title and the class.

    header: the names of all columns; () if the first line has them.
    """
    reader, pairs = csv.reader(io.StringIO(read_text(path), newline="")), []
    try:
        header = header or [cell.strip() for cell in next(reader, ())]
        places = find_columns(path, columns, header)
        for cells in filter(None, reader):
            if len(cells) != len(header):
                detail = f"{len(cells)} instead of {len(header)}"
                bad.fault(split, f"line {reader.line_num}", "wrong number of columns", detail)
                continue
            name, title, label = (cells[place].strip() for place in places)
            if name and label:
                pairs.append(FoodPair(name, image_path(root, split, label, name), title, label))
            else:
                bad.fault(split, f"line {reader.line_num}", "no file name or no class")
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; mend its quotes") from error
    return pairs


def find_columns(path: str, columns: Sequence[str], header: Sequence[str]) -> list[int]:
    """The positions of the columns."""
    for name in columns:
        if name not in header:
            raise UserError(
                f"{path} has no column {name!r} but {list(header)}; let its first line name "
                f"{', '.join(columns)}"
            )
    return [list(header).index(name) for name in columns]


def existing_paths(root: str, pattern: str, **names: str) -> Iterator[tuple[str, str]]:
    """Split and path of the files or folders that exist."""
    for split, name in names.items():
        path = os.path.join(root, pattern.format(name))
        if tf.io.gfile.exists(path):
            yield split, path


def visible_names(*folder: str) -> list[str]:
    """The visible names in a folder, sorted, without the slash that buckets add to folders."""
    names = tf.io.gfile.listdir(os.path.join(*folder))
    return sorted(name.rstrip("/") for name in names if not name.startswith("."))


def image_path(root: str, folder: str, label: str, name: str) -> str:
    """The path of a picture in all layouts but MMBT's, whose lines contain the path."""
    return os.path.join(root, "images", folder, label, name)


def read_text(path: str) -> str:
    """A whole file; bytes that are not UTF-8 become replacement characters."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode("utf-8-sig", errors="replace")


def read_if_there(path: str) -> str:
    """A whole file, or '' if it does not exist."""
    try:
        return read_text(path)
    except tf.errors.NotFoundError:
        return ""


def read_json(path: str) -> dict:
    """A file that is one JSON object."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; get the file again")
    return content
