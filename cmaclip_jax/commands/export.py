"""cmaclip export: a trained run as a module that runs without this project."""

import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO, ONNX = FORMATS = ("stablehlo", "onnx")
HELP = """\
Writes a trained run as a folder that runs without this project: on JAX, or with --format=onnx on
ONNX Runtime. The folder holds the model, which takes any number of pairs, and `example.py`, which
answers one picture and its words. The command runs the model before it keeps it: its answers may
differ from the run's by rounding only.

`cmaclip export --check=FOLDER` tells whether an export still runs on this machine, and whether it
answers as the run did when it was written.

  --config.model.dtype=bfloat16  the type to compute in; 'auto' is float32 on a CPU, since another
                                 CPU may answer, and bfloat16 elsewhere; ONNX is float32
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and exports."""
    parser = make_parser("export", HELP)
    parser.add_argument("--workdir", help="the folder of the run")
    add_checkpoint_argument(parser)
    parser.add_argument("--output", type=Path, help="the folder to write")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="an export to check instead")
    parser.add_argument("--format", default=STABLEHLO, help="stablehlo (the default) or onnx")
    parser.add_argument(
        "--platforms", help=f"where a StableHLO model shall run ({','.join(PLATFORMS)})"
    )
    options, overrides = parser.parse_known_args(arguments)
    if options.check:
        check(options.check)
        return
    if not (options.workdir and options.output):
        parser.error("--workdir and --output are needed, or --check")
    if options.format not in FORMATS:
        raise UserError(f"unknown format {options.format!r}; --format takes {' or '.join(FORMATS)}")
    if options.format == ONNX and options.platforms is not None:
        raise UserError("--platforms is for StableHLO; leave it out for ONNX")
    platforms = ",".join(PLATFORMS) if options.platforms is None else options.platforms
    export(options, chosen(platforms), overrides)


def check(folder: Path) -> None:
    """Checks an export, and shows its age and its difference from the run."""
    import jax

    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.export_check import check_export

    about, difference = check_export(folder)
    screen = Screen(sys.stdout)
    screen.entry(
        "written", f"{about.get('written', 'on an unknown day')}, by JAX {about.get('jax', '?')}"
    )
    if about.get("promised_until"):
        screen.entry("promised", f"until {about['promised_until']}; JAX {jax.__version__} reads it")
    screen.entry("parity", f"{difference:.2g} at most from the answers of the run")


def export(options, platforms: list[str], overrides: list[str]) -> None:
    """Exports the run, and shows what was written."""
    workdir, output = options.workdir, options.output
    import jax  # the imports below take seconds

    from cmaclip_jax.config import with_changes, with_overrides
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.runs.compute_type import NARROW, compute_dtype
    from cmaclip_jax.runs.trained import open_trained
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.export import write_export
    from cmaclip_jax.serving.export_formats import Onnx, StableHLO
    from cmaclip_jax.training.workdir import saved_config
    from cmaclip_jax.weights.writer import check_new_folder

    screen = Screen(sys.stdout)
    check_new_folder(output)
    config = with_overrides(saved_config(workdir), overrides)
    form = Onnx() if options.format == ONNX else StableHLO(platforms)
    form.check()
    if options.format == ONNX:
        if "--config.model.dtype=bfloat16" in overrides:
            raise UserError("ONNX is written in float32; leave --config.model.dtype out")
        dtype, devices = "float32", cpu_devices()
    else:
        dtype = compute_dtype(config.model.dtype, NARROW).name  # no choice for this CPU alone
        devices = jax.local_devices()
    config = with_changes(config, {"model.dtype": dtype})
    screen.entry("reading", workdir)
    trained = open_trained(workdir, config, devices=devices[:1], checkpoint=options.checkpoint)
    tasks = ", ".join(f"{task.name} ({len(task.classes)})" for task in trained.tasks)
    screen.entry("found", f"a run at step {trained.step:,}; tasks (classes): {tasks}")
    about = write_export(trained, output, form)
    screen.entry("model", f"{form}, {about['compute_dtype']}")
    screen.entry("parameters", f"{parameter_count(trained.params):,}")
    parity = about["parity"]
    sizes = ", ".join(map(str, parity["batch_sizes"]))
    screen.entry(
        "parity",
        f"{parity['largest_difference']:.2g} at most from the run's own answers, {sizes} pairs at "
        f"once on {parity['platform']}",
    )
    files = (f"{file.name} ({_size(file)})" for file in sorted(output.iterdir()))
    screen.entry("written", f"{output}: {', '.join(files)}")


def cpu_devices() -> list:
    """The CPU, on which a model in ONNX is compared with the run."""
    import jax

    try:
        return jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise UserError(
            "ONNX is compared with the run on the CPU, which JAX_PLATFORMS leaves out; set "
            "JAX_PLATFORMS=cpu"
        ) from error


def chosen(names: str) -> list[str]:
    """The platforms of a comma-separated list."""
    platforms = list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))
    for name in platforms or [names]:
        if name not in PLATFORMS:
            raise UserError(f"unknown platform {name!r}; --platforms takes {', '.join(PLATFORMS)}")
    return platforms


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size > 1e5 else f"{size / 1e3:,.1f} kB"
