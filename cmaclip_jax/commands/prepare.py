"""cmaclip prepare: any data set as sharded record files of small pictures."""

import argparse
import sys

from cmaclip_jax.commands.arguments import make_parser, read_named_config

HELP = """\
Reads the records that a config describes, shrinks their pictures, and writes files of records.
A run trains on these files without the original data; TFDS reads them too. If it is stopped, the
same command goes on.

  --config=FILE            the run's config, for example configs/quickstart.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments, prepares, and prints a summary."""
    parser = make_parser("prepare", HELP)
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--shards", required=True, type=int, help="files of the training split")
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture's shorter side")
    parser.add_argument("--quality", type=int, default=92, help="of JPEG, 1 to 100")
    parser.add_argument(
        "--format",
        default="array_record",
        choices=("array_record", "tfrecord"),
        help="of the files; tf.data reads tfrecord alone",
    )
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        help="let Apache Beam write the shards; the rest of the line goes to it",
    )
    options, rest = parser.parse_known_args(arguments)
    config, _ = read_named_config(rest)
    # the imports below take seconds
    from cmaclip_jax.data.prepare.preparing import prepare
    from cmaclip_jax.data.prepare.shards import StorageFormat
    from cmaclip_jax.data.prepare.specification import Specification
    from cmaclip_jax.screen import Screen

    form = StorageFormat(options.shards, options.size, options.quality, options.format)
    specification = Specification.of(config.data, options.output, form)
    screen = Screen(sys.stdout)
    for name, value in prepare(specification, config.data.max_bad, options.beam, Screen()):
        screen.entry(name, value)
