"""Opens an exported model with JAX alone. Exports in StableHLO contain a copy of this file."""

from collections.abc import Callable
from pathlib import Path

import jax
from jax import export
from safetensors.numpy import load_file

FILES = ("model.stablehlo", "parameters.safetensors")


def open_model(folder: Path) -> Callable[[dict], dict]:
    """`{input: [B,...]} -> {"probabilities": {task: [B,C]}, "modality_weights": {task: [B,2]}}`."""
    module, parameters = (folder / name for name in FILES)
    loaded = export.deserialize(bytearray(module.read_bytes()))
    call = jax.jit(loaded.call)  # compiles for every new number of pairs
    arguments = jax.device_put(load_file(parameters))
    return lambda batch: jax.device_get(call(arguments, batch))
