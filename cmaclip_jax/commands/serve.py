"""cmaclip serve: a trained run behind HTTP."""

import dataclasses
from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser
from cmaclip_jax.errors import UserError

HELP = """\
Answers pairs over HTTP with a trained run. Requests of several clients share batches.

  POST /v1/predict    JSON {"pairs": [{"image": BASE64, "text": "a red mug"}]}, or a form with
                      files: curl -F image=@mug.jpg -F text='a red mug' HOST/v1/predict
  POST /v1/embed      the embeddings of picture and words
  /                   a page to try it       /docs      all routes
  /metrics            for Prometheus         /v2/...    the Open Inference Protocol

SIGTERM: the server accepts nothing new, answers what it has, and ends with status 0. SIGHUP, or a
change of the file DIR/reload (`touch DIR/reload`), loads the newest checkpoint of the run; no
request is dropped. The server never opens a file or an address that a request names.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and serves."""
    parser = make_parser("serve", HELP)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    add_checkpoint_argument(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for everyone (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (%(default)s)")
    parser.add_argument("--name", help="of the model under /v2 (default: the folder's name)")
    parser.add_argument("--tokens", metavar="FILE", help="one bearer token a line; one is needed")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--batch", type=int, default=32, help="pairs at once (%(default)s)")
    limits.add_argument(
        "--wait", type=float, default=2, help="ms that a pair waits for others (%(default)s)"
    )
    limits.add_argument("--deadline", type=float, default=10, help="s for an answer (%(default)s)")
    limits.add_argument("--queue", type=int, default=1024, help="pairs that may wait (%(default)s)")
    limits.add_argument("--pairs", type=int, default=64, help="in one request (%(default)s)")
    limits.add_argument("--body", type=float, default=32, help="MiB of a request (%(default)s)")
    limits.add_argument("--megapixels", type=float, default=50, help="a picture (%(default)s)")
    serve(parser.parse_args(arguments))


def serve(options) -> None:
    """Serves the run that the options name."""
    try:
        from cmaclip_jax.server.serve import Address, serve
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing; the server needs: pip install 'cmaclip_jax[serve]'"
        ) from error
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.server.served_run import ServedRun
    from cmaclip_jax.serving.classifier import open_classifier  # imports JAX, which takes seconds

    limits = read_limits(options)
    tokens = read_tokens(options.tokens) if options.tokens else []
    bound = Address(options.host, options.port).bind()
    screen = Screen()
    classifier = open_classifier(options.workdir, checkpoint=options.checkpoint)
    name = options.name or Path(options.workdir).resolve().name
    serve(ServedRun(classifier, limits.batch), bound, limits, name, tokens, screen.say)


def read_limits(options):
    """The limits that the options set; UserError if one of them allows nothing."""
    from cmaclip_jax.server.limits import Limits

    limits = Limits(
        batch=options.batch,
        wait=options.wait / 1000,
        pairs=options.pairs,
        queue=options.queue,
        deadline=options.deadline,
        body=round(options.body * 2**20),
        pixels=round(options.megapixels * 1e6),
    )
    for name, value in dataclasses.asdict(limits).items():
        if value < 0 or (not value and name != "wait"):
            flag = "megapixels" if name == "pixels" else name
            raise UserError(f"--{flag} has to be more than 0")
    return limits


def read_tokens(path: str) -> list[str]:
    """The tokens in a file, one a line."""
    try:
        tokens = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"cannot read --tokens={path}: {reason}") from error
    if not tokens:
        raise UserError(f"--tokens={path} holds no token; write one a line")
    return tokens
