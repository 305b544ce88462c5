"""cmaclip export: a trained run as a folder that runs without this project."""

import sys
from pathlib import Path
from typing import Any

from cmaclip_jax.commands.arguments import add_checkpoint_argument, add_run_argument, make_parser
from cmaclip_jax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
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
    add_run_argument(parser, required=False)
    add_checkpoint_argument(parser)
    parser.add_argument("--output", type=Path, help="the folder to write")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="an export to check instead")
    parser.add_argument("--format", default="stablehlo", help="%(default)s or onnx")
    parser.add_argument(
        "--platforms", help=f"where a StableHLO model shall run ({','.join(PLATFORMS)})"
    )
    options, overrides = parser.parse_known_args(arguments)
    if options.check:
        check(options.check)
        return
    if not (options.workdir and options.output):
        parser.error("--workdir and --output are needed, or --check")
    export(options, overrides)


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


def export(options, overrides: list[str]) -> None:
    """Exports the run, and shows what was written."""
    # The imports take seconds.
    from cmaclip_jax.config import with_changes
    from cmaclip_jax.config_arguments import with_overrides
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.runs.pushed import local_run
    from cmaclip_jax.runs.trained import open_trained
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.export import write_export
    from cmaclip_jax.training.workdir import saved_config
    from cmaclip_jax.weights.writer import check_new_folder

    screen, output = Screen(sys.stdout), options.output
    check_new_folder(output)
    workdir = local_run(options.workdir)
    saved = saved_config(workdir)
    config = with_overrides(saved, overrides)
    form = chosen_format(options)
    device, dtype = form.device(), form.compute_type(config.model.dtype)
    if config.model.dtype not in (saved.model.dtype, "auto", dtype):
        raise UserError(f"{form} computes in {dtype}; leave --config.model.dtype out")
    config = with_changes(config, {"model.dtype": dtype})
    screen.entry("reading", options.workdir)
    trained = open_trained(workdir, config, devices=[device], checkpoint=options.checkpoint)
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
        f"once on {parity['device']}",
    )
    files = (f"{file.name} ({_size(file)})" for file in sorted(output.iterdir()))
    screen.entry("written", f"{output}: {', '.join(files)}")


def chosen_format(options) -> Any:
    """The format that --format and --platforms ask for."""
    from cmaclip_jax.serving.export_formats import FORMATS, Onnx, StableHLO

    if options.format not in FORMATS:
        raise UserError(f"unknown format {options.format!r}; --format takes {' or '.join(FORMATS)}")
    if options.format == StableHLO.name:
        given = options.platforms
        return StableHLO(PLATFORMS if given is None else chosen_platforms(given))
    if options.platforms is not None:
        raise UserError("--platforms is for StableHLO; leave it out for ONNX")
    return Onnx()


def chosen_platforms(names: str) -> list[str]:
    """The platforms of a comma-separated list."""
    platforms = list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))
    for name in platforms or [names]:
        if name not in PLATFORMS:
            raise UserError(f"unknown platform {name!r}; --platforms takes {', '.join(PLATFORMS)}")
    return platforms


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e6:,.1f} MB" if size > 1e5 else f"{size / 1e3:,.1f} kB"
