"""What self-training gives when few rows have labels, and whether its promise holds.

    python tests/benchmarks/measure_self_training.py --data=FOLDER --clip=RUN --folder=WORK
        --text=masked_title [--shares=1,3,10] [--seeds=3] [--rounds=3] [--steps=600]
        [--layers=2] [--weight=0.5]

The training rows of FOLDER (train.parquet and val.parquet) keep their labels in a share of them,
chosen at random; the others are the unlabelled table. Every round trains on the labelled rows and
on the pseudo-labels of the round before: those accepted at --precision, or all. A hash of the ids
splits the rows of val in two: one half chooses the thresholds, the other judges. As pictures and
words are encoded by the frozen encoders of --clip, every pair goes through them once for all runs.

'accuracy' and 'recall' (at 90 % precision) are means over the tasks. They count all judged rows,
also those of a class that no labelled row has, which no answer can meet. 'labelled' is the share of
the unlabelled cells that get a label, and 'precision' the share of these labels that is right.
'known' is the same without rows of such a class, as thresholds see it. 'kept' counts the labels of
single tasks that held the promised precision, by either way of counting. Each figure is a mean over
seeds with its standard deviation.
"""

import argparse
import csv
import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from pyarrow import parquet

from cmaclip_jax import process

process.prepare()

import jax

from cmaclip_jax.auditing.labelling import accepted_label
from cmaclip_jax.config import with_changes
from cmaclip_jax.config_arguments import read_config
from cmaclip_jax.data.records import hash_share
from cmaclip_jax.evaluation.predictor import collect
from cmaclip_jax.evaluation.threshold_choice import choose_threshold
from cmaclip_jax.runs import frozen_features
from cmaclip_jax.runs.calibration import choose_thresholds
from cmaclip_jax.runs.training import open_run
from cmaclip_jax.studies.framework import markdown_table, with_deviation
from cmaclip_jax.training.state import start_from

TASKS = ("gender", "subCategory", "articleType", "baseColour")
ENCODED = ("image_tokens",), ("text_tokens",), ("has_image",), ("has_text",), ("tokens",)
WORDS = "words"


def make_config(options):
    config = read_config(
        [
            "--config=configs/attributes.py",
            f"--config.model.pretrained={options.clip}",
            "--config.train.freeze=('(image|text)/.*',)",
            "--config.data.augment.crop=1.0",
            "--config.data.augment.flip=False",
            "--config.data.augment.word_drop=0.0",
            "--config.model.tower_dropout=0.0",
            "--config.train.contrastive=0.0",
            "--config.eval.every=0",
            "--config.train.batch_size=128",
        ]
    )
    config.train.steps, config.model.sequence_layers = options.steps, options.layers
    config.train.pseudo_weight = options.weight
    config.data.many = ("none",)
    return with_changes(config, {"data.labels": TASKS})


def read_rows(options) -> dict[str, list[dict]]:
    """The rows of train and val, without pictures."""
    columns = ["id", options.text, *TASKS]
    rows = {}
    for split in ("train", "val"):
        table = parquet.read_table(Path(options.data) / f"{split}.parquet", columns=columns)
        rows[split] = [row | {WORDS: row.pop(options.text)} for row in table.to_pylist()]
    return rows


class Encoded:
    """What the frozen encoders make of every pair; stands in for `Features._encode`."""

    def __init__(self, options, rows):
        config = with_changes(
            make_config(options), {"data.path": options.data, "data.text": options.text}
        )
        run = open_run(config, options.folder / "encoded")
        state, _ = start_from(run.assembly.create_state(), run.towers.params)
        parts = [run.reads._arrays(split, state.params) for split in ("train", "val")]
        run.progress.close()
        self.length = run.data.encode.text_length
        self.arrays = {key: np.concatenate([part[key] for part in parts]) for key in ENCODED}
        names = [row["id"] for split in ("train", "val") for row in rows[split]]
        self.places = {name: place for place, name in enumerate(names)}

    def encode(self, features, split, params, folder):
        """Writes the arrays of a split: the encoded pairs, with the labels and weights here."""
        source = features.data.source(split)
        records = [source[place] for place in range(len(source))]
        batch = features.data.encode(records, [None] * len(records))
        arrays = dict(frozen_features.flatten_dict(batch))
        arrays |= self.of([record.id for record in records])
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for number, (path, array) in enumerate(arrays.items()):
            np.save(folder / f"{number}.npy", array)
            files["/".join(path)] = f"{number}.npy"
        about = features._of_split(split) | {"files": files}
        (folder / frozen_features.WHOLE).write_text(json.dumps(about))

    def of(self, names):
        places = np.array([self.places[name] for name in names])
        return {key: array[places] for key, array in self.arrays.items()}

    def outcome(self, run, params, names):
        """What a run answers to the pairs of these names."""
        arrays, size = self.of(names), 1024
        empty = frozen_features.flatten_dict(run.data.encode.empty(size))
        arrays |= {key: array for key, array in empty.items() if key[0] == "labels"}

        def batches():
            for first in range(0, len(names), size):
                index = np.arange(first, first + size)
                real = index < len(names)
                chosen = {k: a[index.clip(max=len(names) - 1)] for k, a in arrays.items()
                          if k[0] != "labels"}  # fmt: skip
                chosen |= {k: a for k, a in arrays.items() if k[0] == "labels"}
                chosen["weight",] = real.astype(np.float32)
                yield frozen_features._rows([chosen], np.arange(size))

        return collect(run.assembly.predict_step, params, batches(), run.assembly.mesh)


def write_table(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", WORDS, *TASKS, "split"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def figures_of(tasks, outcome, rows) -> dict[str, float]:
    """Mean accuracy, and mean recall at 90 % precision, over all rows that have a true label."""
    accuracies, recalls = [], []
    for task in tasks:
        said = outcome["probabilities"][task.name]
        right = np.array(task.classes)[said.argmax(axis=1)] == [row[task.name] for row in rows]
        sure = said.max(axis=1)
        least = choose_threshold(sure, right, 0.9)
        accuracies.append(right.mean())
        recalls.append(0 if least is None else (right & (sure >= least)).mean())
    return {"accuracy": float(np.mean(accuracies)), "recall": float(np.mean(recalls))}


def give_labels(tasks, outcome, thresholds, rows, every: bool):
    """Rows with the labels that are accepted; the figures of these labels."""
    filled = [{"id": row["id"], WORDS: row[WORDS], "split": "train"} for row in rows]
    given = right = known = kept = kept_known = tasks_with_labels = 0
    for task, chosen in zip(tasks, thresholds, strict=True):
        said = outcome["probabilities"][task.name]
        labels = np.array(task.classes)[said.argmax(axis=1)]
        answers = [
            accepted_label({task.name: label, f"{task.name}_accepted": bool(accepted)}, task, every)
            for label, accepted in zip(labels, chosen.accepts(said), strict=True)
        ]
        own = own_right = own_known = 0
        for row, to_fill, label in zip(rows, filled, answers, strict=True):
            if label is not None:
                to_fill[task.name] = str(label)
                own, own_right = own + 1, own_right + (label == row[task.name])
                own_known += row[task.name] in task.classes
        given, right, known = given + own, right + own_right, known + own_known
        if own:
            tasks_with_labels += 1
            kept += own_right / own >= chosen.target
            kept_known += own_right / max(own_known, 1) >= chosen.target
    figures = {
        "labelled": given / (len(rows) * len(tasks)),
        "precision": right / given if given else None,
        "known": right / known if known else None,
        "kept": [kept, kept_known, tasks_with_labels],
    }
    return [row for row in filled if len(row) > 3], figures


def train(config, folder: Path):
    run = open_run(config, folder)
    params = run.final_parameters(run.train())
    run.progress.close()
    return run, params


def prepare(options, encoded, rows, share: float, seed: int):
    """`(config, judged rows, unlabelled rows)` of a share of labelled rows, drawn by a seed."""
    order = np.random.default_rng(seed).permutation(len(rows["train"]))
    count = round(share / 100 * len(order))
    table = [rows["train"][place] | {"split": "train"} for place in order[:count]]
    for row in rows["val"]:
        table.append(row | {"split": "val" if hash_share(row["id"]) < 0.5 else "test"})
    judged = [row for row in table if row["split"] == "test"]
    path = write_table(options.folder / f"share-{share:g}-seed-{seed}/labelled.csv", table)
    fields = {"data.path": path, "data.image": "none", "data.text": WORDS, "seed": seed}
    config = with_changes(make_config(options), fields | {"data.text_length": encoded.length})
    return config, judged, [rows["train"][place] for place in order[count:]]


def measure(options, encoded, rows, share: float, seed: int) -> list[dict]:
    """The figures of all rounds of a seed, with accepted and with all answers."""
    config, judged, unlabelled = prepare(options, encoded, rows, share, seed)
    folder, found = Path(config.data.path).parent, []
    first = train(config, folder / "first")  # before any label, both ways are the same
    for every in (False, True):
        pseudo = ""
        for number in range(options.rounds + 1):
            if number == 0:
                run, params = first
            else:
                changed = with_changes(config, {"train.pseudo": pseudo})
                run, params = train(changed, folder / f"{'all' if every else 'accepted'}-{number}")
            tasks = run.data.tasks
            chosen = choose_thresholds(tasks, run.outcome(params, "val"), options.precision, 0.9)
            figures = figures_of(tasks, run.outcome(params, "test"), judged)
            outcome = encoded.outcome(run, params, [row["id"] for row in unlabelled])
            filled, given = give_labels(tasks, outcome, chosen, unlabelled, every)
            pseudo = write_table(folder / f"labels-{every}-{number}.csv", filled)
            case = {"share": share, "seed": seed, "every": every, "round": number}
            found.append(case | figures | given)
            print(json.dumps(found[-1]), flush=True)
            if number:
                shutil.rmtree(run.workdir / "features")
    jax.clear_caches()
    return found


def table_of(found: list[dict]):
    yield ["labels", "pseudo-labels", "round", "accuracy", "recall", "labelled", "precision",
           "known", "kept"]  # fmt: skip
    cases = dict.fromkeys((r["share"], r["every"], r["round"]) for r in found)
    for share, every, number in cases:
        some = [r for r in found if (r["share"], r["every"], r["round"]) == (share, every, number)]

        def mean(name, some=some):
            values = [row[name] for row in some if row[name] is not None]
            if not values:
                return "-"
            spread = statistics.stdev(values) if len(values) > 1 else None
            return with_deviation(statistics.fmean(values), spread, 3)

        kept = np.sum([row["kept"] for row in some], axis=0)
        names = ("accuracy", "recall", "labelled", "precision", "known")
        yield [f"{share:g} %", "all" if every else "accepted", f"{number}", *map(mean, names),
               f"{kept[0]}, {kept[1]} of {kept[2]}"]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--text", required=True)
    parser.add_argument("--shares", default="1,3,10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--layers", type=int, default=2, help="of sequence-wise attention")
    parser.add_argument("--weight", type=float, default=0.5, help="of pseudo-labels")
    parser.add_argument("--precision", type=float, default=0.95)
    options = parser.parse_args()
    rows = read_rows(options)
    encoded = Encoded(options, rows)
    frozen_features.Features._encode = lambda self, *rest: encoded.encode(self, *rest)
    found = []
    for seed in range(options.seeds):
        for share in map(float, options.shares.split(",")):
            found += measure(options, encoded, rows, share, seed)
            lines = "\n".join(markdown_table(table_of(found), words=(0, 1)))
            (options.folder / "results.md").write_text(lines + "\n")
    print(lines, file=sys.stderr)


if __name__ == "__main__":
    main()
