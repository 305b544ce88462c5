"""Every field of a run once, with a comment; and the checks whose errors carry the fix."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cmaclip_jax.errors import UserError


def base_config() -> ConfigDict:
    """The fields of a run and their defaults; a file in configs/ changes what it needs."""
    config = ConfigDict()
    config.seed = 0  # of parameters, order and dropout

    data = config.data = ConfigDict()
    # Where records come from: 'shop' (drawn), 'table' (CSV, TSV, JSON Lines, Parquet), 'food101',
    # 'fashion_gen', or 'tfds' (any TFDS builder, and what `cmaclip prepare` writes).
    data.source = "shop"
    data.path = ""  # the data set's folder or file; 'shop' needs none
    data.image = ""  # the column or feature with the picture; '' finds it, 'none' uses none
    data.text = ""  # the column(s) or feature(s) with the words, 'title,brand'; as data.image
    data.labels = ()  # the tasks to learn, by name; () takes all that the data has
    data.id = ""  # a table's column with the rows' names; '' finds it, 'none' uses none
    # Of a table's tasks those with several labels in a cell; () finds them, 'none' has none.
    data.many = ()
    data.separator = "|"  # what stands between the labels of such a cell
    data.split = "train"  # the split to train on
    data.outside = False  # whether a table may name pictures outside its own folder
    # What becomes of a record whose picture cannot be read: 'skip' leaves it out, 'no_image'
    # keeps its words, 'fail' ends the run. WORKDIR/bad_records.jsonl lists all of them.
    data.on_error = "skip"
    # A larger share of left out records ends a run: before its first step where files are missing,
    # else while it trains. Evaluation goes on without them and says how many.
    data.max_bad = 0.05
    data.image_size = 0  # pixels a side; 0: what the encoder's size is made for
    # Tokens a text, start and end included; 0: the encoder's own; -1: what the data needs, up to
    # 77 from scratch and to what pretrained weights have positions for.
    data.text_length = 0
    data.vocabulary = 1024  # at most so many tokens, where a tokenizer is trained from scratch
    data.balance = ""  # the task whose classes are drawn evenly; '': every pair once an epoch
    data.balance_power = 1.0  # 1: all classes alike; 0.5: by the root of their frequency

    augment = data.augment = ConfigDict()  # of training pictures and texts
    augment.crop = 1.0  # smallest share of the area that a random crop takes; 1: no random crop
    augment.flip = False  # mirror every other picture
    augment.jitter = 0.0  # how far brightness, contrast and saturation move, 0 to 1
    augment.randaugment = 0  # random operations a picture; 0: none
    augment.magnitude = 9  # how strong they are, 0 to 30
    augment.word_drop = 0.0  # share of words left out

    noise = data.noise = ConfigDict()  # pictures and texts made worse on purpose
    noise.image = ""  # 'gaussian' | 'blur' | 'jpeg' | 'occlusion' | 'swap' | 'blank'
    noise.text = ""  # 'drop' | 'typos' | 'swap' | 'blank'
    noise.severity = 3  # 1 to 5 (the Gaussian also takes 10, of a published protocol)
    noise.share = 1.0  # of the examples, how many are corrupted
    noise.train = False  # whether in training
    noise.evaluate = True  # whether in evaluation

    tfds = data.tfds = ConfigDict()  # of data.source='tfds'; data.path is its data_dir
    tfds.name = ""  # the builder, 'oxford_iiit_pet:4.0.0'; '': data.path is one built data set
    tfds.train = "train"  # which TFDS split is ours to train on, 'train[:90%]' for example
    tfds.val = ""  # to choose by; '' finds 'val' or 'validation', else takes a tenth of train
    tfds.test = ""  # to report; '' finds 'test', else there is none
    tfds.try_gcs = False  # whether TFDS may fetch prepared data from its public bucket

    shop = data.shop = ConfigDict()  # of data.source='shop' alone
    shop.seed = 0  # of the catalogue itself; config.seed leaves it as it is
    shop.train_size = 20_000  # pairs to train on
    shop.val_size = 1_000  # pairs to choose by
    shop.test_size = 2_000  # pairs to report
    shop.articles = 2  # articles in a picture, 1 to 8
    shop.single_share = 0.3  # training pictures that show the named article alone
    shop.missing_labels = 0.05  # share of labels that are unknown
    shop.missing_images = 0.05  # share of pairs without a picture
    shop.missing_texts = 0.05  # share of pairs without a title

    model = config.model = ConfigDict()
    model.image = "B/32"  # size of the image encoder from scratch; see models/encoders.py
    model.text = "B/32"  # size of the text encoder that belongs to this image encoder
    # CLIP weights to start from: a folder of `cmaclip convert`, any checkpoint that it reads,
    # or a hub name. They bring their encoders' sizes and tokenizer; '' starts from scratch.
    model.pretrained = ""
    # 'both' | 'image' | 'text': the single-modality baselines, which open no picture, or want no
    # words, and are judged on the pairs that have what they read.
    model.inputs = "both"
    model.sequence_layers = 2  # blocks of sequence-wise attention; 0 is late fusion
    model.sequence_width = 0  # their width; 0: CLIP's projection width
    # Their heads; 0: one for every 64 of width; -1: as wide as the text encoder's heads.
    model.sequence_heads = 0
    model.sequence_zero = True  # whether they start as the identity, that is as late fusion
    model.modality = "attention"  # 'attention' | 'mean' | 'concat' of the two embeddings
    model.modality_per_modality = False  # one learned vector per modality, not one per task
    model.head_layers = 1  # hidden layers of every task's MLP
    model.head_width = 0  # their width; 0: the embedding's
    model.dropout = 0.0  # in sequence-wise attention and heads
    model.tower_dropout = 0.0  # in the encoders; CLIP itself has none
    model.unroll = 1  # layers a turn of the scan runs; more compiles longer, may run faster
    model.remat = "none"  # 'none' | 'dots' | 'full': activations to compute again, for memory
    model.dtype = "auto"  # 'auto' | 'float32' | 'bfloat16'; auto: bfloat16 on TPU and GPU

    train = config.train = ConfigDict()
    # What is learned: 'classification' by CMA-CLIP; or CLIP's own matching of pictures and words,
    # 'contrastive' (softmax over the whole batch) or 'sigmoid' (every pair by itself).
    train.objective = "classification"
    train.steps = 10_000  # updates in all
    train.batch_size = 256  # pairs an update, over all devices and accumulation parts
    train.accumulate = 1  # parts a batch is split into, one after the other, for memory
    train.learning_rate = 1e-4  # the peak rate, times the rules' factors
    train.warmup = 0.05  # share of the steps until the peak; after it, cosine down to 0
    train.b1 = 0.9  # AdamW's decay of the mean
    train.b2 = 0.98  # AdamW's decay of the square
    train.epsilon = 1e-8  # AdamW's, beside the square's root
    train.clip = 1.0  # the largest global norm of a gradient; 0: unlimited
    # Decay of the averaged parameters that evaluation uses; it rises from 0.2 to this value with
    # the number of updates. 0: no average.
    train.ema = 0.0
    # Rules are (regex, value) over parameter paths such as image/stack/blocks/mlp_up/kernel;
    # of those that match, the first counts; one that matches nothing is an error.
    train.rates = ((".*", 1.0),)  # factors on the learning rate, encoders against new parts
    train.freeze = ()  # regexes of what does not learn, e.g. ('(image|text)/.*',)
    train.weight_decay = ((".*/(kernel|embedding)", 0.05), (".*", 0.0))  # of the rate, a step
    train.layer_decay = ()  # (regex, factor per layer counted from a tower's end)
    train.label_smoothing = 0.0  # share of a one-label target spread over all classes
    train.task_weights = ()  # (task, weight) pairs; 1 for the others
    train.class_weights = ()  # (task, (one weight per class)) pairs; all alike for the others
    train.contrastive = 0.0  # weight of CLIP's own loss between the towers; needs both inputs
    train.spike = 20.0  # a loss over so many times its running mean stops the run; 0: never
    train.log_every = 20  # steps between two lines of figures

    evaluation = config.eval = ConfigDict()
    evaluation.every = 1_000  # steps between evaluations on the validation split; 0: none
    evaluation.watch = "val"  # the split they use
    evaluation.split = ""  # the split of the last evaluation; '': test, or val where there is none
    # Sentences about a class, for CLIP without heads: {} is the class, {task} its task. The
    # embeddings of several are averaged.
    evaluation.prompts = ("a photo of a {}.",)
    evaluation.batch_size = 256  # pairs at once; no figure depends on it
    # Recall is told at these precisions: the share found while so many of the found are right.
    evaluation.precisions = (0.90, 0.95)
    # A label among the k most probable classes counts as found, for one-label tasks of more than k.
    evaluation.top_k = (5,)

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 1_000  # steps between checkpoints; the last step is always saved
    checkpoint.keep = 2  # the newest so many, and the best one, stay

    profile = config.profile = ConfigDict()
    profile.start = 100  # the first step that is profiled; the very first ones also compile
    profile.steps = 0  # how many are, into WORKDIR/profile; 0: none

    mesh = config.mesh = ConfigDict()
    mesh.data = -1  # devices over which the batch is split; -1 takes what is left
    mesh.fsdp = 1  # devices over which batch and parameters are split
    mesh.tensor = 1  # devices over which heads and MLPs are split
    return config


CHOICES = {
    "data.source": ("shop", "table", "food101", "fashion_gen", "tfds"),
    "data.on_error": ("skip", "no_image", "fail"),
    "data.noise.image": ("", "gaussian", "blur", "jpeg", "occlusion", "swap", "blank"),
    "data.noise.text": ("", "drop", "typos", "swap", "blank"),
    "model.inputs": ("both", "image", "text"),
    "model.modality": ("attention", "mean", "concat"),
    "train.objective": ("classification", "contrastive", "sigmoid"),
    "model.remat": ("none", "dots", "full"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "data.split": ("train", "val", "test"),
    "eval.watch": ("train", "val", "test"),
    "eval.split": ("", "train", "val", "test"),
}
LEAST_VOCABULARY = 300  # 256 bytes, start, end, and something to learn
AT_LEAST_ONE = [
    "train.steps",
    "train.batch_size",
    "train.accumulate",
    "train.log_every",
    "eval.batch_size",
    "checkpoint.every",
    "checkpoint.keep",
    "profile.start",
    "model.unroll",
    "data.noise.severity",
    "data.shop.train_size",
    "data.shop.val_size",
    "data.shop.test_size",
    "data.shop.articles",
]
NOT_NEGATIVE = [
    "data.image_size",
    "data.balance_power",
    "data.augment.randaugment",
    "data.augment.magnitude",
    "model.sequence_layers",
    "model.sequence_width",
    "model.head_layers",
    "model.head_width",
    "train.clip",
    "train.contrastive",
    "train.spike",
    "eval.every",
    "profile.steps",
]
SHARES = [
    "train.warmup",
    "train.ema",
    "train.label_smoothing",
    "model.dropout",
    "model.tower_dropout",
    "data.max_bad",
    "data.augment.crop",
    "data.augment.jitter",
    "data.augment.word_drop",
    "data.noise.share",
    "data.shop.single_share",
    "data.shop.missing_labels",
    "data.shop.missing_images",
    "data.shop.missing_texts",
]


def check_config(config: ConfigDict) -> None:
    """Raises UserError for what no run could mean; needs neither data nor devices."""
    for path, choices in CHOICES.items():
        if field(config, path) not in choices:
            raise UserError(f"config.{path}={field(config, path)!r} is none of {choices}")
    for path in AT_LEAST_ONE:
        if field(config, path) < 1:
            raise UserError(f"config.{path}={field(config, path)} must be at least 1")
    for path in NOT_NEGATIVE:
        if field(config, path) < 0:
            raise UserError(f"config.{path}={field(config, path)} must be 0 or more")
    for path in SHARES:
        if not 0 <= field(config, path) <= 1:
            raise UserError(f"config.{path}={field(config, path)} must lie between 0 and 1")
    size, parts = config.train.batch_size, config.train.accumulate
    if size % parts:
        raise UserError(
            f"config.train.batch_size={size} does not divide into "
            f"config.train.accumulate={parts} parts; use {nearest_multiples(size, parts)}"
        )
    profile = config.profile
    if profile.steps and profile.start + profile.steps - 1 > config.train.steps:
        raise UserError(
            f"config.profile.start={profile.start} and profile.steps={profile.steps} go beyond "
            f"train.steps={config.train.steps}; start earlier"
        )
    if config.data.vocabulary < LEAST_VOCABULARY:
        raise UserError(
            f"config.data.vocabulary={config.data.vocabulary} must be {LEAST_VOCABULARY} or more"
        )
    shop = config.data.shop
    if shop.articles > 8 or shop.missing_images + shop.missing_texts > 1:
        raise UserError(
            "config.data.shop: there are 8 articles to show, and missing_images + missing_texts "
            "is 1 at most, since every pair has one of the two"
        )
    if config.model.sequence_heads < -1:
        raise UserError("config.model.sequence_heads needs 1 or more, or 0 or -1; see its comment")
    if not config.data.separator:
        raise UserError("config.data.separator is empty; let it be what splits labels, as '|'")
    if config.data.text_length in (1, 2) or config.data.text_length < -1:
        raise UserError("config.data.text_length needs 3 or more: start, a word, end; or 0 or -1")
    if not config.eval.prompts or not all("{}" in prompt for prompt in config.eval.prompts):
        raise UserError("config.eval.prompts: every sentence needs {} where the class's name goes")
    if not all(isinstance(x, int | float) and 0 < x <= 1 for x in config.eval.precisions):
        raise UserError(
            f"config.eval.precisions={config.eval.precisions} are shares, above 0 and up to 1"
        )
    if not all(isinstance(k, int) and k >= 1 for k in config.eval.top_k):
        raise UserError(f"config.eval.top_k={config.eval.top_k} are whole numbers, 1 or more")
    if config.train.objective != "classification" and config.model.inputs != "both":
        raise UserError(
            f"config.train.objective={config.train.objective!r} matches pictures with words; it "
            "needs config.model.inputs='both'"
        )


def nearest_multiples(value: int, step: int) -> str:
    """The multiples of `step` around `value`, as advice: '960 or 1024'."""
    below, above = value // step * step, -(-value // step) * step
    return f"{below} or {above}" if below else str(above)


def field(config: ConfigDict, path: str):
    """The value at a dotted path."""
    for name in path.split("."):
        config = config[name]
    return config


def with_changes(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config in which the fields at some dotted paths have other values."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(changes)
    return changed


def field_paths(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field's dotted path."""
    paths = []
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        paths += field_paths(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return paths


def read_config(arguments: list[str]) -> ConfigDict:
    """The config that `--config=FILE` and any `--config.a.b=value` describe, checked."""
    file = f"--config={_config_file(arguments)}"
    known = field_paths(_load([file]))
    for argument in arguments:
        _check_field(argument, known)
    return _checked(_load([file, *(a for a in arguments if not a.startswith("--config="))]))


def with_overrides(config: ConfigDict, arguments: list[str]) -> ConfigDict:
    """A run's config with the `--config.a.b=value` among `arguments` in it, checked."""
    known = field_paths(config)
    for argument in arguments:
        if argument.startswith("--config="):
            raise UserError("this run has its config; change fields with --config.FIELD=VALUE")
        _check_field(argument, known)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict(
        "config",
        config.copy_and_resolve_references(),
        flag_values=values,
        sys_argv=["cmaclip", *arguments],
    )
    return _checked(_parsed(values, holder, arguments))


def own_configs() -> Path:
    """The folder of the configs that come with this: in the package, or in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _config_file(arguments: list[str]) -> str:
    """The file that the last `--config=FILE` names.

    `configs/NAME.py` is one of our own where the current folder has no such file.
    """
    files = [a.split("=", 1)[1] for a in arguments if a.startswith("--config=")]
    if not files:
        raise UserError("which config? add --config=FILE, for example configs/quickstart.py")
    path = Path(files[-1].split(":")[0])
    if path.is_file():
        return files[-1]
    own = own_configs()
    if path.parent == Path("configs") and (own / path.name).is_file():
        return str(own.parent / files[-1])
    names = ", ".join(f"configs/{file.name}" for file in sorted(own.glob("*.py")))
    raise UserError(f"no config file {files[-1]!r}; those that come with this are {names}")


# What a wrong value or a wrong line in somebody's config file raises.
MISTAKES = (flags.Error, TypeError, ValueError, AttributeError, LookupError, NameError)
MISTAKES += (SyntaxError, ImportError)


def _load(arguments: list[str]) -> ConfigDict:
    values = flags.FlagValues()
    argv = ["cmaclip", *arguments]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    return _parsed(values, holder, arguments)


def _checked(config: ConfigDict) -> ConfigDict:
    for name in ("labels", "many"):  # 'a,b' on the command line is two names
        config.data[name] = tuple(part for text in config.data[name] for part in text.split(","))
    check_config(config)
    return config


def _parsed(values: flags.FlagValues, holder, arguments: list[str]) -> ConfigDict:
    try:
        values(["cmaclip", *arguments])
        return holder.value
    except MISTAKES as error:
        text = str(error.args[0] if error.args else error)
        raise UserError(" ".join(text.split())) from error


def _check_field(argument: str, known: list[str]) -> None:
    if not argument.startswith("--config"):
        raise UserError(f"unknown argument {argument!r}; see --help")
    if not argument.startswith("--config."):
        return
    path = argument.removeprefix("--config.").split("=")[0].split("[")[0]
    if "=" not in argument:
        raise UserError(f"{argument!r} has no value; write {argument}=VALUE")
    if path not in known:
        by_last = {name.rsplit(".", 1)[-1]: name for name in known}
        near = difflib.get_close_matches(path, known, 1, 0.5) or [
            by_last[name] for name in difflib.get_close_matches(path, by_last, 1)
        ]
        hint = f"did you mean --config.{near[0]}?" if near else "see cmaclip_jax/config.py"
        raise UserError(f"unknown config field {path!r}; {hint}")
