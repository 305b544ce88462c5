"""What a run must know of its records before its first step."""

import contextlib
import errno
import os
import sys

from cmaclip_jax.data.missing import missing_pictures, spread
from cmaclip_jax.data.pseudo import PSEUDO
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.data import RunData
from cmaclip_jax.runs.new_encoder import SAMPLED_TEXTS, some_texts

TEXTS_MEASURED = 1_000  # texts from which the share of cut texts is estimated


def check_records(data: RunData) -> list[str]:
    """Checks that there is something to learn from, and lists missing pictures.

    Returns a line for every split that lacks pictures.

    Raises:
      UserError: there is nothing to learn from, or too many pictures are missing.
    """
    _check_something(data)
    if not data.encode.reads_image:
        return []
    config = data.config
    during = config.eval.watch if config.eval.every else ""
    splits = dict.fromkeys((config.data.split, during, data.last_split()))
    if data.pseudo is not None:
        splits[PSEUDO] = None
    return [line for split in filter(None, splits) if (line := _list_missing(data, split))]


def _check_something(data: RunData) -> None:
    """Raises UserError where none of the sampled records has what this run learns from."""
    config, encode = data.config, data.encode
    split, source = config.data.split, data.source(config.data.split)
    learns_from_pairs = config.train.objective != "classification"
    wanted = "pairs" if learns_from_pairs else encode.inputs
    serves, lack = {
        "pairs": (
            lambda i: source.text(i) and _has_image(source, i),
            "both a picture and words",
        ),
        "both": (lambda i: source.text(i) or _has_image(source, i), "a picture or words"),
        "image": (lambda i: _has_image(source, i), "a picture"),
        "text": (source.text, "words"),
    }[wanted]
    for index in spread(len(source), SAMPLED_TEXTS):
        with contextlib.suppress(RecordError):  # loading that record will report the error
            if serves(index):
                return
    raise UserError(
        f"there is nothing to learn from: no pair of {split} has {lack}; name where "
        f"these are in data.image and data.text, or change model.inputs={encode.inputs!r}"
    )


def _has_image(source: Source, index: int) -> bool:
    return source[index].image is not None


def _list_missing(data: RunData, split: str) -> str:
    """Lists the missing pictures of a split in bad_records.jsonl; a line on them, '' for none."""
    source, bad = data.source(split), data.bad
    paths = getattr(source, "paths", ())
    seen, missing = missing_pictures(paths)
    lost = 0
    for index in missing:
        detail = f"{paths[index]}: {os.strerror(errno.ENOENT)}"
        bad.fault(split, source[index].id, "missing picture", detail)
        stays = bad.policy == "no_image" and data.encode.reads_text
        lost += not (stays and source.text(index))
    if not missing:
        return ""
    bad.limit(split, seen, lost, len(source))
    parts = {"stay with their words": len(missing) - lost, "are left out": lost}
    kept = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    return f"{len(missing):,} pictures of {seen:,} pairs of {split} are missing; {kept}"


def describe_data(data: RunData) -> list[str]:
    """Lines about the data for the screen: its splits, its tasks, and texts that are cut."""
    training = data.source(data.config.data.split)
    sizes = ", ".join(f"{len(source):,} {split}" for split, source in data.sources.items())
    tasks = ", ".join(f"{task.name} ({len(task.classes)})" for task in data.encode.tasks)
    lines = [
        getattr(training, "description", ""),
        f"pairs: {sizes}; tasks (classes): {tasks or 'none'}",
        data.pseudo.about if data.pseudo is not None else "",
        texts_cut(data),
    ]
    return list(filter(None, lines))


def texts_cut(data: RunData) -> str:
    """A line on the share of training texts that are cut, with the flag for longer texts.

    '' where no text is cut.
    """
    texts = list(some_texts(data.source(data.config.data.split), TEXTS_MEASURED))
    tokenizer, length = data.encode.tokenizer, data.encode.text_length
    share = tokenizer.share_cut(texts, length)
    if not share or not data.encode.reads_text:
        return ""
    needed = min(tokenizer.length_for(texts), data.longest or sys.maxsize)
    more = f"; a new run with --config.data.text_length={needed} reads more of them"
    cut = f"{share:.1%} of the texts are longer than {length} tokens and are cut"
    return cut + (more if needed > length else "")
