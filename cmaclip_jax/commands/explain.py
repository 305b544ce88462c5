"""cmaclip explain: which words and patches the answers to single rows rest on."""

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.tables import add_table_arguments, open_named_table

HELP = """\
Writes DIR/explain.html, a page about single rows of a table: the picture, the answer to every task,
the patches of the picture that each answer rests on, and how the answers change when a word is left
out. DIR is the run's folder.

  --rows=3,17              row numbers, from 1, or ids; if a number is also the id of another row,
                           write row:3 or id:3
  --heat=gradient          attention weighted by the gradient of the answer (default)
  --heat=occlusion         the fall of the answer's probability when a patch is painted over: a
                           prediction a patch; the default for models without heads
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and explains."""
    parser = make_parser("explain", HELP)
    add_table_arguments(parser)
    parser.add_argument("--rows", required=True, help="the rows, as 3,17")
    parser.add_argument("--heat", default="", choices=("gradient", "occlusion"), help="its kind")
    parser.add_argument("--output", help="the page to write (default: DIR/explain.html)")
    explain(parser.parse_args(arguments))


def explain(options) -> None:
    """Explains the rows that the options name."""
    import jax  # the imports below take seconds

    from cmaclip_jax.report.chosen_rows import chosen_rows
    from cmaclip_jax.report.explainer import Explainer
    from cmaclip_jax.report.pages import explain_page, write_page
    from cmaclip_jax.runs.pushed import local_run
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.classifier import open_classifier
    from cmaclip_jax.training.workdir import run_folder

    screen, page = Screen(), options.output or run_folder(options.workdir) / "explain.html"
    workdir = local_run(options.workdir)
    table = open_named_table(options, workdir)
    chosen = chosen_rows(table, options.rows)
    screen.say(str(table))
    device = jax.local_devices()[:1]
    classifier = open_classifier(workdir, device, options.checkpoint)
    explainer = Explainer(classifier, options.heat, screen.track)
    names, pairs = [name for name, _ in chosen], [table.pair(row) for _, row in chosen]
    about = (
        f"{len(chosen)} of {table.rows:,} rows of {options.input}, answered by {options.workdir} "
        f"at step {classifier.trained.step:,}"
    )
    text = explain_page(list(explainer.explain(names, pairs)), about, explainer.why_no_heat)
    path = write_page(page, text)
    screen.say(f"written to {path}")
