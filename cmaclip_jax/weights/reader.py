"""Reads every kind of CLIP checkpoint: a folder, a file, or a name on the Hugging Face hub."""

import json
from collections.abc import Callable
from pathlib import Path

from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cmaclip_jax.errors import UserError
from cmaclip_jax.models.clip import CLIP
from cmaclip_jax.weights import huggingface, openai, openclip, siglip
from cmaclip_jax.weights.clip_folder import DESCRIPTION, Weights, read_clip_folder
from cmaclip_jax.weights.hub import HUB_NAME, hub_folder
from cmaclip_jax.weights.layout import Pairing, Tensors, read_parameters
from cmaclip_jax.weights.torch_archive import read_torch_archive

# The files that may hold a folder's tensors, best first. An index lists several such files.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "flax_model.msgpack",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
# Other files of a hub repository that a run needs; the last two are those of a pushed run.
BESIDE = ("*config.json", "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json")
BESIDE += ("tasks.json", DESCRIPTION)


def read_weights(source: str, activation: str = "") -> Weights:
    """The CLIP at `source`: our converted folder, Hugging Face's, OpenCLIP's or OpenAI's.

    activation: 'quick_gelu' or 'gelu', for files that do not say which they were trained with.
    """
    try:
        return _read(source, activation)
    except UserError:
        raise
    except Exception as error:  # a foreign file may fail in any way
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"cannot read {source[:200]!r} as a CLIP ({what})") from error


def local_checkpoint(source: str) -> Path:
    """The folder or the file at `source`; of a name on the hub, its folder in the local cache."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if not HUB_NAME.fullmatch(source):
        raise UserError(f"no checkpoint at {source!r}; name a folder, a file or a hub name")
    return hub_folder(source, _wanted)


def _read(source: str, activation: str) -> Weights:
    path = local_checkpoint(source)
    if path.is_dir() and (path / DESCRIPTION).exists():
        return read_clip_folder(path)
    folder, file = (path, _tensor_file(path)) if path.is_dir() else (path.parent, path)
    tensors = _plain_names(_read_tensors(file))
    family, model, pairings, ignored = _recognise(tensors, folder, file, activation)
    if activation and activation != model.image.activation:
        raise UserError(
            f"the config in {folder} names {model.image.activation}; leave --activation out"
        )
    count = len(tensors)
    try:
        params = read_parameters(tensors, pairings, model, ignored)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return Weights(model, params, folder, f"{family} checkpoint, {count} tensors in {file.name}")


def _recognise(
    tensors: Tensors, folder: Path, file: Path, activation: str
) -> tuple[str, CLIP, list[Pairing], tuple[str, ...]]:
    """(family, network, pairings, ignored names) of a checkpoint, by the names of its tensors."""
    image = _has(tensors, "vision_model.", "visual.")
    text = _has(tensors, "text_model.", "transformer.resblocks.", "text.transformer.")
    if not (image and text):
        missing = " and ".join(n for n, there in (("image", image), ("text", text)) if not there)
        raise UserError(f"{file} has no {missing} tower of a CLIP with two transformers")
    if _has(tensors, "vision_model."):
        family = "Hugging Face"
        if huggingface.kind_of(folder) == siglip.KIND:
            return family, siglip.model_of(folder), siglip.PAIRINGS, huggingface.IGNORED
        return family, huggingface.model_of(folder), huggingface.PAIRINGS, huggingface.IGNORED
    if _has(tensors, siglip.POOL_OF_TIMM):
        model = siglip.openclip_model_of(folder, tensors)
        return "OpenCLIP", model, siglip.OPENCLIP_PAIRINGS, openai.IGNORED
    if (folder / openclip.CONFIG).exists():
        model = openclip.model_of(folder)
        return "OpenCLIP", model, openai.pairings_of(model), openai.IGNORED
    names = [name for pairing in openai.PAIRINGS for name in pairing.theirs]
    absent = [name for name in names if name.format(layer=0) not in tensors]
    if "visual.layer1.0.conv1.weight" in tensors:
        raise UserError(f"{file}: its image tower is a ResNet; only vision transformers are read")
    if _has(tensors, "visual.trunk."):
        raise UserError(f"{file}: its image tower is timm's, and of these only SigLIP's is read")
    if absent:
        raise UserError(f"{file}: {len(absent)} missing: {', '.join(absent[:8])}")
    from_openai = openai.STATED[0] in tensors
    if not (activation or from_openai):
        raise UserError(
            f"{file} does not say its activation; add --activation=quick_gelu (OpenAI's weights "
            "and names with -quickgelu) or --activation=gelu (most others)"
        )
    model = openai.model_of(tensors, activation or "quick_gelu")
    family = "OpenAI" if from_openai else "OpenCLIP"
    return family, model, openai.pairings_of(model), openai.IGNORED


def _has(tensors: Tensors, *starts: str) -> bool:
    return any(name.startswith(starts) for name in tensors)


def _plain_names(tensors: Tensors) -> Tensors:
    """The names without the prefixes of some OpenCLIP files."""
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    if _has(tensors, "text.transformer.") and not _has(tensors, siglip.POOL_OF_TIMM):
        tensors = {name.removeprefix("text."): x for name, x in tensors.items()}
    return tensors


def _tensor_file(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} holds no weights; expected one of {', '.join(FILES)}")


def _read_tensors(file: Path) -> Tensors:
    """All tensors of a file, or of all files in an index."""
    if file.name.endswith(".index.json"):
        try:
            parts = sorted(set(json.loads(file.read_text())["weight_map"].values()))
        except (KeyError, ValueError) as error:
            raise UserError(f"{file} is no index of tensors ({error})") from error
        if any(name.endswith(".index.json") for name in parts):
            raise UserError(f"{file} names another index")
        missing = [name for name in parts if not (file.parent / name).exists()]
        if missing:
            raise UserError(f"{file} names {missing[0]!r}, which is not beside it")
        return {k: x for name in parts for k, x in _read_tensors(file.parent / name).items()}
    readers: dict[str, Callable[[Path], Tensors]] = {
        ".safetensors": _read_safetensors,
        ".msgpack": _read_msgpack,
        ".bin": read_torch_archive,
        ".pt": read_torch_archive,
        ".pth": read_torch_archive,
    }
    if file.suffix not in readers:
        raise UserError(f"{file}: unknown kind of checkpoint; known are {', '.join(readers)}")
    return readers[file.suffix](file)


def _read_safetensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged or cut short ({error}); fetch it again") from error


def _read_msgpack(file: Path) -> Tensors:
    try:
        tree = msgpack_restore(file.read_bytes())
        return huggingface.names_from_flax(flatten_dict(tree, sep="."))
    except Exception as error:  # msgpack raises errors of many types
        raise UserError(f"{file} is damaged or cut short ({error}); fetch it again") from error


def _wanted(files: list[str] | None) -> list[str]:
    """The patterns of the files that a repository of the hub is read from."""
    best = next((f for f in FILES if files and f in files), None)
    shards = [f"{best.split('.')[0]}-*"] if best and best.endswith(".index.json") else []
    return [best, *shards, *BESIDE] if best else [*FILES, *BESIDE]
