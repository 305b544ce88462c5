"""A run's config from the command line: a config file, and changes of single fields."""

import difflib
import functools
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from cmaclip_jax.config import check_config, field_paths
from cmaclip_jax.errors import UserError


def read_config(arguments: list[str]) -> ConfigDict:
    """The checked config of `--config=FILE` and any number of `--config.a.b=value`."""
    file = f"--config={_config_file(arguments)}"
    define = functools.partial(config_flags.DEFINE_config_file, "config")
    _check_names(arguments, _parsed(define, [file]))
    return _checked(
        _parsed(define, [file, *(a for a in arguments if not a.startswith("--config="))])
    )


def with_overrides(config: ConfigDict, arguments: list[str]) -> ConfigDict:
    """A run's config, changed by the `--config.a.b=value` among `arguments`, and checked."""
    if any(argument.startswith("--config=") for argument in arguments):
        raise UserError("this run has its config; change fields with --config.FIELD=VALUE")
    _check_names(arguments, config)
    config = config.copy_and_resolve_references()
    define = functools.partial(config_flags.DEFINE_config_dict, "config", config)
    return _checked(_parsed(define, arguments))


def own_configs() -> Path:
    """The folder of this project's configs: in the installed package, or else in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _config_file(arguments: list[str]) -> str:
    """The file of the last `--config=FILE`.

    `configs/NAME.py` means this project's file if the current folder has none of that name.
    """
    files = [a.split("=", 1)[1] for a in arguments if a.startswith("--config=")]
    if not files:
        raise UserError("which config? add --config=FILE, for example configs/quickstart.py")
    path = Path(files[-1].split(":")[0])
    if path.is_file():
        return files[-1]
    own = own_configs()
    if path.parent == Path("configs") and (own / path.name).is_file():
        return str(own.parent / files[-1])
    names = ", ".join(f"configs/{file.name}" for file in sorted(own.glob("*.py")))
    raise UserError(f"no config file {files[-1]!r}; the configs of this project are {names}")


# The errors that a wrong value, or a mistake in a user's config file, can raise.
CONFIG_ERRORS: tuple = (flags.Error, TypeError, ValueError, AttributeError, LookupError)
CONFIG_ERRORS += (NameError, SyntaxError, ImportError)


def _checked(config: ConfigDict) -> ConfigDict:
    for name in ("labels", "many"):  # 'a,b' on the command line is two names
        config.data[name] = tuple(part for text in config.data[name] for part in text.split(","))
    check_config(config)
    return config


def _parsed(define: Callable, arguments: list[str]) -> ConfigDict:
    """The value that absl's flag --config has after `arguments`. `define` defines the flag."""
    values, command = flags.FlagValues(), ["cmaclip", *arguments]
    holder = define(flag_values=values, sys_argv=command)
    try:
        values(command)
        return holder.value
    except CONFIG_ERRORS as error:
        text = str(error.args[0] if error.args else error)
        raise UserError(" ".join(text.split())) from error


def _check_names(arguments: list[str], config: ConfigDict) -> None:
    """Raises UserError for an argument that names no field of the config."""
    known = field_paths(config)
    for argument in arguments:
        if not argument.startswith("--config"):
            raise UserError(f"unknown argument {argument!r}; see --help")
        path = argument.removeprefix("--config.").split("=")[0].split("[")[0]
        if argument.startswith("--config.") and "=" not in argument:
            raise UserError(f"{argument!r} has no value; write {argument}=VALUE")
        if argument.startswith("--config.") and path not in known:
            raise UserError(f"unknown config field {path!r}; {_hint(path, known)}")


def _hint(path: str, known: list[str]) -> str:
    by_last = {name.rsplit(".", 1)[-1]: name for name in known}
    near = difflib.get_close_matches(path, known, 1, 0.5) or [
        by_last[name] for name in difflib.get_close_matches(path, by_last, 1)
    ]
    return f"did you mean --config.{near[0]}?" if near else "see cmaclip_jax/config.py"
