"""cmaclip export: a trained run as a module that runs without this project."""

from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.commands.convert import prepare, say
from cmaclip_jax.errors import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
HELP = """\
Writes a trained run as a folder that JAX alone can run: StableHLO that takes any number of pairs at
once, on every platform named; its parameters; and `example.py`, which asks it about one picture and
its words. What was written is run, and kept only if it answers as the run does.

  --config.model.dtype=bfloat16  what it computes in; 'auto' is what suits this machine, which is
                                 float32 on a CPU
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and exports."""
    parser = make_parser("export", HELP)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    add_checkpoint_argument(parser)
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.add_argument(
        "--platforms", default=",".join(PLATFORMS), help="where it shall run (%(default)s)"
    )
    options, overrides = parser.parse_known_args(arguments)
    export(options, chosen(options.platforms), overrides)


def export(options, platforms: list[str], overrides: list[str]) -> None:
    """Exports the run, and tells what was written."""
    workdir, output = options.workdir, options.output
    prepare(output)
    import jax  # what is below takes seconds to import

    from cmaclip_jax.config import with_overrides
    from cmaclip_jax.parallel.rules import parameter_count
    from cmaclip_jax.runs.trained import open_trained
    from cmaclip_jax.serving.export import MODULE, PARAMETERS, write_export
    from cmaclip_jax.training.workdir import saved_config

    config = with_overrides(saved_config(workdir), overrides)
    say("reading", workdir)
    device = jax.local_devices()[:1]
    trained = open_trained(workdir, config, devices=device, checkpoint=options.checkpoint)
    tasks = ", ".join(f"{task.name} ({len(task.classes)})" for task in trained.tasks)
    say("found", f"a run at step {trained.step:,}; tasks (classes): {tasks}")
    about = write_export(trained, output, platforms)
    say("module", f"{_size(output / MODULE)}, {about['compute_dtype']}; {', '.join(platforms)}")
    say("parameters", f"{parameter_count(trained.params):,}, {_size(output / PARAMETERS)}")
    parity = about["parity"]
    sizes = ", ".join(map(str, parity["batch_sizes"]))
    say(
        "parity",
        f"{parity['largest_difference']:.2g} at most from the run's own answers, {sizes} pairs at "
        f"once on {parity['platform']}",
    )
    say("written", f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


def chosen(names: str) -> list[str]:
    """The platforms of a comma-separated list."""
    platforms = list(dict.fromkeys(filter(None, map(str.strip, names.split(",")))))
    for name in platforms or [names]:
        if name not in PLATFORMS:
            raise UserError(f"unknown platform {name!r}; --platforms takes {', '.join(PLATFORMS)}")
    return platforms


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:,.1f} MB"
