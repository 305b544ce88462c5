"""cmaclip landmarks study: which annotation noise hurts a detector, and which remedy helps."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser, read_named_config
from cmaclip_jax.errors import UserError

STUDY = """\
Adds several kinds of noise to the points of training faces, trains landmark detectors with several
remedies and seeds, and compares their accuracy and stability on true points. Writes study.md,
study.json and study.png in DIR after each seed. Each run is an ordinary one, in
DIR/NOISE-STRENGTH-REMEDY-FACES/seed-N. The same command continues where it was stopped.

Reconstructed from the abstract of arXiv:2007.15269: metrics, noises and remedies are our choice.

  --config=FILE            configs/landmarks.py; its fields `landmarks.study` define the study
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/landmarks/config.py lists them all
                           for example --config.landmarks.study.noises="('bias','outliers')"
"""


def run_study(arguments: list[str]) -> None:
    """Reads the arguments and compares."""
    parser = make_parser("landmarks study", STUDY)
    parser.add_argument("--workdir", help="the study's folder (default: runs/CONFIG-study)")
    options, rest = parser.parse_known_args(arguments)
    config, name = read_named_config(rest)
    if "landmarks" not in config:
        raise UserError(f"{name} is no config of landmarks; use --config=configs/landmarks.py")
    from cmaclip_jax.landmarks.remedy_study import compare_remedies  # takes seconds to import

    compare_remedies(config, Path(options.workdir or f"runs/{name}-study"))
