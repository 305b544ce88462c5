"""The variants that a study compares: the same config with some fields changed."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a variant changes in the config.

    changes: {the path of a field: its value}.
    from_clip: whether it needs the encoders of `model.pretrained`.
    seeded: whether its runs depend on the seed. If not, one run is enough.
    """

    about: str
    changes: Mapping[str, Any]
    from_clip: bool = False
    seeded: bool = True


VARIANTS: dict[str, Variant] = {
    "full": Variant("the config as it is", {}),
    "no-sequence": Variant("no sequence-wise attention", {"model.sequence_layers": 0}),
    "no-modality": Variant(
        "no modality-wise attention: the heads read the mean of the two embeddings",
        {"model.modality": "mean"},
    ),
    "neither": Variant(
        "neither attention: the heads read the mean of the two embeddings",
        {"model.sequence_layers": 0, "model.modality": "mean"},
    ),
    "late-fusion": Variant(
        "neither attention: the heads read both embeddings side by side",
        {"model.sequence_layers": 0, "model.modality": "concat"},
    ),
    "image-only": Variant("pictures alone", {"model.inputs": "image"}),
    "text-only": Variant("words alone", {"model.inputs": "text"}),
    "concat": Variant(
        "no modality-wise attention: the heads read both embeddings side by side",
        {"model.modality": "concat"},
    ),
    "gated": Variant(
        "the heads read both embeddings side by side, each multiplied by its weight",
        {"model.modality": "gated"},
    ),
    "drop-modality": Variant(
        "in training, 30 % of the pairs lose their picture or their words",
        {"train.drop_modality": 0.3},
    ),
    "soup": Variant(
        "answers with a greedy soup of up to four checkpoints (eval.soup)", {"eval.soup": 4}
    ),
    "lora-2": Variant(
        "adapters of rank 2 (LoRA) learn in the encoders", {"model.lora.rank": 2}, True
    ),
    "lora-8": Variant("adapters of rank 8", {"model.lora.rank": 8}, True),
    "lora-32": Variant("adapters of rank 32", {"model.lora.rank": 32}, True),
    "bitfit": Variant(
        "of the encoders, biases and norms alone learn",
        {"train.freeze": ("(image|text)/(?!.*(bias|scale)$).*",)},
        True,
    ),
    "frozen": Variant(
        "nothing of the encoders learns", {"train.freeze": ("(image|text)/.*",)}, True
    ),
    "fine-tuned-clip": Variant(
        "CLIP's contrastive training on the pairs; the answer is the class whose sentences "
        "(eval.prompts) are nearest to the mean of the pair's two embeddings",
        {"train.objective": "contrastive"},
    ),
    # One step at a rate of 0 makes an ordinary run of it, which every verb can open.
    "raw-clip": Variant(
        "model.pretrained without training, read out like fine-tuned-clip",
        {
            "train.objective": "contrastive",
            "train.steps": 1,
            "train.learning_rate": 0.0,
            "train.ema": 0.0,
        },
        from_clip=True,
        seeded=False,
    ),
}
APART = "apart"
ABOUT = {name: variant.about for name, variant in VARIANTS.items()}
ABOUT[APART] = "a run for every task"
USUAL = ("full", "no-sequence", "no-modality", "late-fusion", "image-only", "text-only")
# The methods of the paper's Tables 2 and 6, and those that a user would deploy instead.
METHODS = ("raw-clip", "fine-tuned-clip", "full", "no-modality", "neither", "late-fusion")
METHODS += ("gated", "image-only", "text-only")


def described(names: Iterable[str]) -> str:
    """A paragraph for every variant, for a help text: its name, and beside it what it is."""
    return "\n".join(
        textwrap.fill(ABOUT[name], 98, initial_indent=f"  {name:16}", subsequent_indent=" " * 18)
        for name in names
    )
