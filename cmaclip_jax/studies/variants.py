"""The variants of an ablation: the same config with some fields changed."""

# {variant: (the fields of config.model that it changes, its description)}
VARIANTS: dict[str, tuple[dict, str]] = {
    "full": ({}, "the config as it is"),
    "no-sequence": ({"sequence_layers": 0}, "no sequence-wise attention"),
    "no-modality": ({"modality": "mean"}, "no modality-wise attention: the embeddings' mean"),
    "late-fusion": (
        {"sequence_layers": 0, "modality": "concat"},
        "neither attention: the heads read both embeddings side by side",
    ),
    "image-only": ({"inputs": "image"}, "pictures alone"),
    "text-only": ({"inputs": "text"}, "words alone"),
    "concat": (
        {"modality": "concat"},
        "no modality-wise attention: the heads read both embeddings side by side",
    ),
    "gated": (
        {"modality": "gated"},
        "the heads read both embeddings side by side, each multiplied by its weight",
    ),
}
APART = "apart"
ABOUT = {name: about for name, (_, about) in VARIANTS.items()} | {APART: "a run for every task"}
USUAL = ("full", "no-sequence", "no-modality", "late-fusion", "image-only", "text-only")
