"""The fields of a run, with their defaults and their permitted values."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cmaclip_jax.errors import UserError, nearest_multiples


@dataclasses.dataclass(frozen=True)
class Field:
    """A field's default value and the values that the field accepts."""

    default: Any
    choices: tuple = ()
    least: float | None = None
    most: float | None = None

    def check(self, path: str, value: Any) -> None:
        """Raises UserError where the field at `path` does not accept `value`."""
        if self.choices and value not in self.choices:
            raise UserError(f"config.{path}={value!r} is none of {self.choices}")
        too_small = self.least is not None and value < self.least
        if too_small or (self.most is not None and value > self.most):
            limits = f"be at least {self.least}"
            if self.most is not None:
                limits = f"lie between {self.least} and {self.most}"
            raise UserError(f"config.{path}={value} must {limits}")


def share(default: float) -> Field:
    """A field that accepts numbers from 0 to 1."""
    return Field(default, least=0, most=1)


def base_config() -> ConfigDict:
    """Every field of a run with its default. A file in configs/ changes some of the fields."""
    config = _fields()
    defaults = {path: field.default for path, field in LIMITED_FIELDS.items()}
    with config.ignore_type():
        config.update_from_flattened_dict(defaults)
    return config


def _fields() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # determines the initial parameters, the order of examples, and dropout
    config.update(data=_data(), model=_model(), train=_train(), eval=_eval())

    checkpoint, profile, mesh = ConfigDict(), ConfigDict(), ConfigDict()
    checkpoint.every = Field(1_000, least=1)  # steps between two; the last step is always saved
    checkpoint.keep = Field(2, least=1)  # number of newest checkpoints kept, besides the best
    profile.start = Field(100, least=1)  # the first step to profile; the first steps also compile
    profile.steps = Field(0, least=0)  # number of steps profiled into WORKDIR/profile; 0: none
    mesh.data = -1  # devices that split the batch; -1: all devices that the other two leave
    mesh.fsdp = 1  # devices that split batch and parameters
    mesh.tensor = 1  # devices that split attention heads and MLPs
    config.update(checkpoint=checkpoint, profile=profile, mesh=mesh)
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    # 'shop' (drawn pictures), 'table' (a file or a folder of Hugging Face's `datasets`), 'food101',
    # 'fashion_gen', or 'tfds' (any TFDS builder, and the output of `cmaclip prepare`).
    data.source = Field("shop", choices=("shop", "table", "food101", "fashion_gen", "tfds"))
    data.path = ""  # the folder, file or pattern ('data/*.parquet') of the data; 'shop' needs none
    data.image = ""  # the column or feature of pictures; '': found by its content; 'none': unused
    data.text = ""  # the column(s) or feature(s) of text, as 'title,brand'; '' and 'none' as above
    data.labels = ()  # names of the tasks to learn; (): all tasks of the data; 'none': no task
    data.id = ""  # the column of a table with the rows' ids; '': found by its name; 'none': unused
    data.many = ()  # tasks whose cells hold several labels; (): found by separator; 'none': none
    data.separator = "|"  # separates the labels in such a cell
    data.split = Field("train", choices=("train", "val", "test"))  # the split to train on
    # A .npy file with the number of the fold of every record, counted through all splits. '': no
    # folds. `cmaclip audit` sets both fields.
    data.folds = ""
    data.fold = Field(0, least=0)  # the fold to test; all other records are then training records
    data.outside = False  # whether the pictures of a table may lie outside the table's folder
    # A record whose picture cannot be read: 'skip' drops the record, 'no_image' keeps its text,
    # 'fail' ends the run. WORKDIR/bad_records.jsonl lists these records.
    data.on_error = Field("skip", choices=("skip", "no_image", "fail"))
    # The largest share of dropped records. A run with more of them ends: before its first step if
    # files are missing, else during training. Evaluation continues and prints their number.
    data.max_bad = share(0.05)
    data.image_size = Field(0, least=0)  # pixels per side; 0: the size of the image encoder
    # Tokens per text, with start and end token; 0: the length of the text encoder; -1: what the
    # data needs, at most 77 from scratch and at most the number of pretrained positions.
    data.text_length = 0
    # The most tokens of a vocabulary that the run makes; 256 bytes, start and end are among them.
    data.vocabulary = Field(1024, least=300)
    data.balance = ""  # task whose classes are drawn equally often; '': every pair once per epoch
    data.balance_power = Field(1.0, least=0)  # 1: equally often; 0.5: by the root of the frequency
    data.update(augment=_augment(), noise=_noise(), tfds=_tfds(), shop=_shop())
    return data


def _augment() -> ConfigDict:
    """Random changes of the pictures and texts in training."""
    augment = ConfigDict()
    augment.crop = share(1.0)  # smallest share of the area that a random crop keeps; 1: no crop
    augment.flip = False  # whether half of the pictures are mirrored
    augment.jitter = share(0.0)  # largest change of brightness, contrast and saturation
    augment.randaugment = Field(0, least=0)  # number of random operations per picture; 0: none
    augment.magnitude = Field(9, least=0)  # strength of these operations, 0 to 30
    augment.word_drop = share(0.0)  # share of words that are removed
    return augment


def _noise() -> ConfigDict:
    """Corruption of pictures and texts, for measuring robustness."""
    noise = ConfigDict()
    kinds = ("", "gaussian", "blur", "jpeg", "occlusion", "blank", "swap", "missing")
    # What happens to pictures: nothing (''), 'blank' makes them grey, 'missing' takes them away.
    noise.image = Field("", kinds)
    noise.text = Field("", ("", "drop", "typos", "swap", "blank"))  # the same for texts
    noise.severity = Field(3, least=1)  # 1 to 5; 'gaussian' also accepts 10, a published protocol
    noise.share = share(1.0)  # share of the examples that are corrupted
    noise.train = False  # whether examples are corrupted in training
    noise.evaluate = True  # whether examples are corrupted in evaluation
    return noise


def _tfds() -> ConfigDict:
    """For data.source='tfds', where data.path is the data_dir of TFDS."""
    tfds = ConfigDict()
    tfds.name = ""  # the builder, as 'oxford_iiit_pet:4.0.0'; '': data.path is one built data set
    tfds.train = "train"  # the TFDS split to train on, for example 'train[:90%]'
    tfds.val = ""  # the split for validation; '': 'val', 'validation', or a tenth of `train`
    tfds.test = ""  # the split for the final figures; '': 'test' if the data set has it
    tfds.try_gcs = False  # whether TFDS may download prepared data from its public bucket
    return tfds


def _shop() -> ConfigDict:
    """For data.source='shop', a catalogue whose pictures and titles are drawn at random."""
    shop = ConfigDict()
    shop.seed = 0  # determines the catalogue; config.seed does not change the catalogue
    shop.train_size = Field(20_000, least=1)  # number of training pairs
    shop.val_size = Field(1_000, least=1)  # number of validation pairs
    shop.test_size = Field(2_000, least=1)  # number of test pairs
    shop.articles = Field(2, least=1, most=8)  # number of articles in a picture
    shop.single_share = share(0.3)  # share of training pictures with only the named article
    shop.missing_labels = share(0.05)  # share of labels that are unknown
    shop.missing_images = share(0.05)  # share of pairs without a picture
    shop.missing_texts = share(0.05)  # share of pairs without a title
    return shop


def _model() -> ConfigDict:
    model = ConfigDict()
    model.image = "B/32"  # size of the image encoder from scratch; models/encoders.py lists sizes
    model.text = "B/32"  # size of the text encoder that belongs to this image encoder
    # CLIP weights to start from: a folder written by `cmaclip convert`, any checkpoint that this
    # command reads, or a name on the Hugging Face hub. The encoders' sizes and the tokenizer come
    # with the weights. '': from scratch.
    model.pretrained = ""
    # 'image' and 'text' are single-modality baselines. They do not read the other modality, and are
    # evaluated on all pairs that have the modality that they read.
    model.inputs = Field("both", choices=("both", "image", "text"))
    model.sequence_layers = Field(2, least=0)  # layers of sequence-wise attention; 0: late fusion
    model.sequence_width = Field(0, least=0)  # their width; 0: the projection width of CLIP
    # Their heads; 0: one per 64 of width; -1: heads as wide as those of the text encoder.
    model.sequence_heads = Field(0, least=-1)
    model.sequence_zero = True  # whether these layers start as the identity, which is late fusion
    # What a head reads of the two embeddings. 'attention': their weighted sum, as in the paper;
    # 'gated': side by side, each multiplied by its weight; 'mean' and 'concat': without weights.
    model.modality = Field("attention", choices=("attention", "gated", "mean", "concat"))
    model.modality_per_modality = False  # one learned vector per modality instead of per task
    model.head_layers = Field(1, least=0)  # hidden layers in the head of a task
    model.head_width = Field(0, least=0)  # their width; 0: the width of the embedding
    model.dropout = share(0.0)  # in sequence-wise attention and heads
    model.tower_dropout = share(0.0)  # in the encoders; CLIP itself uses none
    # Layers per iteration of the loop over layers. More layers compile longer and may run faster.
    model.unroll = Field(1, least=1)
    # Activations that the backward pass computes again to save memory.
    model.remat = Field("none", choices=("none", "dots", "full"))
    model.dtype = Field("auto", ("auto", "float32", "bfloat16"))  # auto: runs/compute_type.py
    model.update(lora=_lora())
    return model


def _lora() -> ConfigDict:
    """Low-rank adapters of the encoders, whose own parameters then do not learn."""
    lora = ConfigDict()
    lora.rank = Field(0, least=0)  # columns of every adapter; 0: no adapters
    # An adapter adds alpha / rank times its product; 0: an alpha of half the rank.
    lora.alpha = Field(0.0, least=0)
    lora.dropout = share(0.25)  # share of an adapter's inputs that training sets to 0
    # Regexes of the products that have an adapter: (image|text)/stack/blocks/ and one of
    # attention/query, attention/key, attention/value, attention/out, mlp_up, mlp_down.
    lora.rules = (".*/(query|key|value)",)
    # A folder of PEFT to start from. Rank, alpha, dropout and products come with it.
    lora.source = ""
    return lora


def _train() -> ConfigDict:
    train = ConfigDict()
    # CMA-CLIP's classification, or CLIP's matching of pictures and texts: 'contrastive' (softmax
    # over the whole batch) or 'sigmoid' (every pair by itself).
    train.objective = Field("classification", ("classification", "contrastive", "sigmoid"))
    train.steps = Field(10_000, least=1)  # total number of updates
    train.batch_size = Field(256, least=1)  # pairs per update, over all devices and parts
    train.accumulate = Field(1, least=1)  # parts that a batch is computed in, to save memory
    train.learning_rate = 1e-4  # peak of the learning rate; `rates` multiplies it
    train.warmup = share(0.05)  # share of the steps before the peak; a cosine to 0 follows it
    train.b1 = 0.9  # AdamW's decay of the mean gradient
    train.b2 = 0.98  # AdamW's decay of the mean squared gradient
    train.epsilon = 1e-8  # AdamW's term in the denominator
    train.clip = Field(1.0, least=0)  # largest global norm of the gradient; 0: no limit
    # Decay of the averaged parameters, which evaluation uses. It rises from 0.2 to this value with
    # the number of updates. 0: no average.
    train.ema = share(0.0)
    # Rules are (regex, value) pairs over parameter paths such as image/stack/blocks/mlp_up/kernel.
    # The first rule that matches a path counts. A rule that matches no path is an error.
    train.rates = ((".*", 1.0),)  # factors on the learning rate
    train.freeze = ()  # regexes of parameters that do not learn, as ('(image|text)/.*',)
    train.weight_decay = ((".*/(kernel|embedding)", 0.05), (".*", 0.0))  # times the learning rate
    train.layer_decay = ()  # (regex, factor) pairs; the factor counts once per layer from the end
    train.label_smoothing = share(0.0)  # share of a one-label target spread over all classes
    train.task_weights = ()  # (task, weight) pairs; other tasks have weight 1
    train.class_weights = ()  # (task, (weight of each class)) pairs; elsewhere all weights are 1
    # A table of further training rows whose labels a model gave, as `cmaclip label` writes it: with
    # the columns of data.path; an empty cell is an unknown label. No figure is computed on them.
    # Rows of it that are in val or test (by their ids) are left out. '': none.
    train.pseudo = ""
    # Weight of such a row in the loss; all other rows have weight 1. The loss of a batch is the
    # weighted mean over its rows.
    train.pseudo_weight = Field(0.5, least=0.01)
    train.drop_modality = share(0.0)  # share of pairs that lose their picture or text at random
    train.contrastive = Field(0.0, least=0)  # weight of CLIP's loss beside the tasks
    train.spike = Field(20.0, least=0)  # a loss over so many running means ends the run; 0: off
    train.log_every = Field(20, least=1)  # steps between two log lines
    return train


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.every = Field(1_000, least=0)  # steps between evaluations in training; 0: none
    evaluation.watch = Field("val", choices=("train", "val", "test"))  # the split of these
    evaluation.split = Field("", ("", "train", "val", "test"))  # of the last one; '': test, or val
    # The best checkpoints to keep and to try for a mean, with which the trained run answers. Each
    # joins if the score on `watch` does not fall. 1: the best one alone; 0: the last one.
    evaluation.soup = Field(0, least=0)
    # Sentences about a class, for a CLIP without heads. {} stands for the class and {task} for its
    # task. The embeddings of several sentences are averaged.
    evaluation.prompts = ("a photo of a {}.",)
    evaluation.batch_size = Field(256, least=1)  # pairs per batch; does not change any figure
    evaluation.precisions = (0.90, 0.95)  # recall is reported at these precisions
    evaluation.top_k = (5,)  # accuracies that find a label among the k most probable classes
    return evaluation


def check_config(config: ConfigDict) -> None:
    """Raises UserError for values that no run can use. It needs neither data nor devices."""
    for path, field in LIMITED_FIELDS.items():
        field.check(path, value_at(config, path))
    _check_train(config)
    _check_lora(config.model.lora)
    _check_data(config.data)
    _check_eval(config.eval)


def _check_train(config: ConfigDict) -> None:
    train, profile = config.train, config.profile
    if train.batch_size % train.accumulate:
        raise UserError(
            f"config.train.batch_size={train.batch_size} does not divide into "
            f"config.train.accumulate={train.accumulate} parts; "
            f"use {nearest_multiples(train.batch_size, train.accumulate)}"
        )
    if profile.steps and profile.start + profile.steps - 1 > train.steps:
        raise UserError(
            f"config.profile.start={profile.start} and profile.steps={profile.steps} go beyond "
            f"train.steps={train.steps}; start earlier"
        )
    if train.pseudo and config.data.source != "table":
        raise UserError("config.train.pseudo needs data.source='table'; leave train.pseudo out")
    if train.objective != "classification" and config.model.inputs != "both":
        raise UserError(f"config.train.objective={train.objective!r} needs model.inputs='both'")


def _check_lora(lora: ConfigDict) -> None:
    usual = base_config().model.lora
    others = [name for name in ("alpha", "dropout", "rules") if lora[name] != usual[name]]
    if lora.rank and lora.source:
        raise UserError("config.model.lora.source brings its own rank; leave model.lora.rank out")
    if lora.source and others:
        raise UserError(f"config.model.lora.source brings its own {others[0]}; leave that out")
    if others and not lora.rank:
        raise UserError(
            f"config.model.lora.{others[0]} is set and lora.rank=0 makes no adapters; set "
            "config.model.lora.rank to 2 or more"
        )


def _check_data(data: ConfigDict) -> None:
    if data.shop.missing_images + data.shop.missing_texts > 1:
        raise UserError(
            "config.data.shop: missing_images + missing_texts must be at most 1; no pair lacks both"
        )
    if not data.separator:
        raise UserError("config.data.separator is empty; set the character between labels, as '|'")
    if data.text_length in (1, 2) or data.text_length < -1:
        raise UserError("config.data.text_length needs 3 or more (start, a word, end), or 0 or -1")


def _check_eval(evaluation: ConfigDict) -> None:
    if evaluation.soup and not evaluation.every:
        raise UserError("config.eval.soup needs judged checkpoints; set config.eval.every")
    if not evaluation.prompts or not all("{}" in prompt for prompt in evaluation.prompts):
        raise UserError("config.eval.prompts: every sentence needs {} where the class's name goes")
    precisions = evaluation.precisions
    if not all(isinstance(x, int | float) and 0 < x <= 1 for x in precisions):
        raise UserError(f"config.eval.precisions={precisions} are shares, above 0 and up to 1")
    if not all(isinstance(k, int) and k >= 1 for k in evaluation.top_k):
        raise UserError(f"config.eval.top_k={evaluation.top_k} are whole numbers, 1 or more")


def value_at(config: ConfigDict, path: str) -> Any:
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
    """The dotted path of every field."""
    paths = []
    for name, value in config.items():
        inner = isinstance(value, ConfigDict)
        paths += field_paths(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return paths


LIMITED_FIELDS = {
    path: field
    for path in field_paths(_fields())
    if isinstance(field := value_at(_fields(), path), Field)
}
