"""The formats of an export: StableHLO, which JAX runs, and ONNX, which ONNX Runtime runs."""

import dataclasses
import datetime
import importlib.metadata
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from cmaclip_jax.errors import UserError, installed_by
from cmaclip_jax.models.cpu_layers import unstack_layers
from cmaclip_jax.runs.compute_type import NARROW, compute_dtype
from cmaclip_jax.runs.trained import TrainedRun
from cmaclip_jax.serving.stablehlo_model import FILES
from cmaclip_jax.weights.layout import save_tensors

INPUTS = ("image", "has_image", "tokens", "has_text")
PROMISED = datetime.timedelta(days=180)  # JAX reads programs of versions that are so much older
OPSET = 23
ONE_FILE = 1.8e9  # bytes of constants; a file in ONNX holds at most 2 GiB


class ExportFormat(Protocol):
    """How an export keeps the network.

    name: also the beginning of `NAME_model.py`, which opens it.
    allowed: the largest difference of its answers from the run's, by the type that computes. XLA
        rounds otherwise in a program that it compiles separately; ONNX Runtime adds in another
        order.
    """

    name: ClassVar[str]
    allowed: ClassVar[Mapping[str, float]]

    def device(self) -> jax.Device:
        """The device on which the export is compared with the run.

        Raises:
          UserError: this machine cannot write the format.
        """
        ...

    def compute_type(self, wanted: str) -> str:
        """The type in which the export computes; wanted: `model.dtype`, perhaps 'auto'."""
        ...

    def write(self, trained: TrainedRun, folder: Path) -> dict[str, Any]:
        """Writes the network and its parameters; returns its part of export.json."""
        ...


@dataclasses.dataclass(frozen=True)
class StableHLO:
    """A program for several platforms, serialised by `jax.export`, and its parameters beside it.

    The parameters are the first argument of the program, because a program holds at most 2 GB.
    """

    platforms: Sequence[str]
    name: ClassVar[str] = "stablehlo"
    allowed: ClassVar[Mapping[str, float]] = types.MappingProxyType(
        {"float32": 1e-5, "bfloat16": 2e-2}
    )

    def __str__(self) -> str:
        return f"StableHLO for {', '.join(self.platforms)}"

    def device(self) -> jax.Device:
        here = export.default_export_platform()
        if here not in self.platforms:
            raise UserError(
                f"the export is compared with the run on this machine; add {here} to --platforms"
            )
        return jax.local_devices()[0]

    def compute_type(self, wanted: str) -> str:
        return compute_dtype(wanted, NARROW).name  # no choice for this CPU alone

    def write(self, trained: TrainedRun, folder: Path) -> dict[str, Any]:
        program, parameters = (folder / name for name in FILES)
        program.write_bytes(self.program(trained).serialize())
        save_tensors(parameters, flatten_dict(jax.device_get(trained.params), sep="/"))
        return {"platforms": list(self.platforms), "promised_until": promised_until()}

    def program(self, trained: TrainedRun) -> export.Exported:
        """`({name: parameter}, {input: [b,...]}) -> answers`, for any b."""

        def answer(parameters, batch):
            return trained.objective.predict(unflatten_dict(parameters, sep="/"), batch)

        (rows,) = export.symbolic_shape("b")
        one = trained.encode.empty(1)
        batch = {
            name: jax.ShapeDtypeStruct((rows, *one[name].shape[1:]), one[name].dtype)
            for name in INPUTS
        }
        parameters = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), flatten_dict(trained.params, sep="/")
        )
        return export.export(jax.jit(answer), platforms=self.platforms)(parameters, batch)


@dataclasses.dataclass(frozen=True)
class Onnx:
    """A graph in ONNX with the parameters inside, beside it if they are too large for one file.

    It computes in float32: ONNX Runtime has few kernels for bfloat16 on a CPU.
    """

    name: ClassVar[str] = "onnx"
    allowed: ClassVar[Mapping[str, float]] = types.MappingProxyType({"float32": 5e-5})

    def __str__(self) -> str:
        return f"ONNX, opset {OPSET}"

    def device(self) -> jax.Device:
        with installed_by("ONNX", "cmaclip_jax[onnx]"):
            import jax2onnx  # noqa: F401  takes seconds to import
            import onnx_ir  # noqa: F401
            import onnxruntime  # noqa: F401
        try:
            return jax.local_devices(backend="cpu")[0]
        except RuntimeError as error:
            raise UserError(
                "ONNX is compared with the run on the CPU, which JAX_PLATFORMS leaves out; set "
                "JAX_PLATFORMS=cpu"
            ) from error

    def compute_type(self, wanted: str) -> str:
        return "float32"

    def write(self, trained: TrainedRun, folder: Path) -> dict[str, Any]:
        import onnx_ir
        from jax2onnx import to_onnx

        answer, outputs = self.function(trained)
        one = trained.encode.empty(1)
        # The converter reads only a dtype and a shape, in which a name stands for any size.
        inputs = [
            types.SimpleNamespace(shape=("b", *one[name].shape[1:]), dtype=one[name].dtype)
            for name in INPUTS
        ]
        with warnings.catch_warnings():
            # The converter asks for float64, which is off.
            warnings.filterwarnings("ignore", "Explicitly requested dtype float64")
            model = to_onnx(
                answer,
                inputs,
                model_name="cma_clip",
                opset=OPSET,
                return_mode="ir",
                input_names=INPUTS,
                output_names=outputs,
            )
        constants = (value.const_value for value in model.graph.initializers.values())
        size = sum(constant.nbytes for constant in constants)
        beside = "model.onnx.data" if size > ONE_FILE else None
        onnx_ir.save(model, folder / "model.onnx", external_data=beside)
        packages = ("jax2onnx", "onnxruntime")
        return {"opset": OPSET} | {name: importlib.metadata.version(name) for name in packages}

    def function(self, trained: TrainedRun) -> tuple[Any, list[str]]:
        """`(input, ...) -> (output, ...)`, and the names of the outputs, KIND/TASK.

        The converter takes no loop over layers, and with JAX 0.12 no function jitted by itself. So
        the layers are unstacked, and jit is off while the function is traced.
        """
        params = unstack_layers(jax.device_get(trained.params), unroll=sys.maxsize)

        def predict(*inputs):
            batch = dict(zip(INPUTS, inputs, strict=True))
            return flatten_dict(trained.objective.predict(params, batch), sep="/")

        def answer(*inputs):
            with jax.disable_jit():
                answers = predict(*inputs)
            # The converter refuses one value as two outputs, and tasks may share their weights.
            # Adding 0 makes each output a value of its own.
            return tuple(answers[name] + 0 for name in names)

        one = trained.encode.empty(1)
        names = sorted(jax.eval_shape(predict, *(one[name] for name in INPUTS)))
        return answer, names


FORMATS = {form.name: form for form in (StableHLO, Onnx)}


def promised_until() -> str:
    """The last day on which JAX promises to read a program that is written today."""
    return (datetime.date.today() + PROMISED).isoformat()
