"""cmaclip serve: a trained run behind HTTP."""

import contextlib
import math
import signal
from pathlib import Path
from typing import Any

from cmaclip_jax import process
from cmaclip_jax.commands.arguments import add_checkpoint_argument, add_run_argument, make_parser
from cmaclip_jax.errors import UserError, installed_by

HELP = """\
Answers pairs over HTTP with a trained run. Requests of several clients share batches.

  POST /v1/predict    JSON {"pairs": [{"image": BASE64, "text": "a red mug"}]}, or a form with
                      files: curl -F image=@mug.jpg -F text='a red mug' HOST/v1/predict
  POST /v1/embed      the embeddings of picture and words
  /                   a page to try it       /docs      all routes
  /metrics            for Prometheus         /v2/...    the Open Inference Protocol

After SIGTERM the server answers the requests that it has accepted, and ends with status 0. SIGHUP,
or a change of the file DIR/reload (`touch DIR/reload`), loads the newest checkpoint of the run; no
request is dropped. The server never opens a file or an address that a request names.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and serves."""
    parser = make_parser("serve", HELP)
    add_run_argument(parser)
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
    limits.add_argument("--characters", type=int, default=10_000, help="of a text (%(default)s)")
    options = parser.parse_args(arguments)
    with ending_at_once():
        serve(options)


def ending_at_once() -> contextlib.AbstractContextManager[None]:
    """Until the server handles signals itself, SIGTERM ends this process with status 0.

    The first process of a container ignores SIGTERM unless it has a handler. SIGHUP has nothing to
    load yet.
    """

    def end(*_) -> None:
        raise SystemExit(0)

    handlers: dict[int, Any] = {signal.SIGTERM: end}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        handlers[signal.SIGHUP] = signal.SIG_IGN
    return process.signal_handlers(handlers)


def serve(options) -> None:
    """Serves the run that the options name."""
    with installed_by("the server", "cmaclip_jax[serve]"):
        from cmaclip_jax.server.serve import Address, serve
    from cmaclip_jax.runs.pushed import local_run
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.server.served_run import ServedRun
    from cmaclip_jax.server.service import Service
    from cmaclip_jax.serving.classifier import open_classifier  # imports JAX, which takes seconds

    limits = read_limits(options)
    tokens = read_tokens(options.tokens) if options.tokens else []
    bound = Address(options.host, options.port).bind()
    screen = Screen()
    classifier = open_classifier(local_run(options.workdir), checkpoint=options.checkpoint)
    name = options.name or Path(options.workdir).resolve().name
    service = Service(ServedRun(classifier, limits.batch), limits, name, tokens)
    serve(service, bound, screen.say)


def read_limits(options):
    """The limits that the options set; UserError if one of them allows nothing."""
    from cmaclip_jax.server.limits import Limits
    from cmaclip_jax.server.requests import MOST_PAIRS

    for name in ("batch", "wait", "pairs", "queue", "deadline", "body", "megapixels", "characters"):
        value = getattr(options, name)
        if not (math.isfinite(value) and (value > 0 or (name == "wait" and not value))):
            raise UserError(f"--{name} has to be more than 0")
    if options.pairs > min(options.queue, MOST_PAIRS):
        raise UserError(f"--pairs is at most --queue, and at most {MOST_PAIRS:,}")
    return Limits(
        batch=options.batch,
        wait=options.wait / 1000,
        pairs=options.pairs,
        queue=options.queue,
        deadline=options.deadline,
        body=round(options.body * 2**20),
        characters=options.characters,
        pixels=round(options.megapixels * 1e6),
    )


def read_tokens(path: str) -> list[str]:
    """The tokens in a file, one a line; lines that begin with # are comments."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"cannot read --tokens={path}: {reason}") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise UserError(f"--tokens={path} holds no token; write one a line")
    if not all(token.isascii() and token.isprintable() and " " not in token for token in tokens):
        raise UserError(f"--tokens={path}: a token is one word of ASCII characters")
    return tokens
