"""The door for YAML files: ours in conf/ and the user's in $BENCH_CONF. What is wrong with one is said with file and line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.job.errors import ConfigError
from bench.paths import CONF, given_path

if TYPE_CHECKING:
    import yaml


def conf_folders() -> list[Path]:
    """conf/, then the folder of $BENCH_CONF if it is set. Raises ConfigError where that is not a folder."""
    extra = os.environ.get("BENCH_CONF")
    if not extra:
        return [CONF]
    folder = given_path(extra).absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"BENCH_CONF={extra} is not a folder: name one that holds allocator/NAME.yaml or model/NAME.yaml, or unset it."
        )
    return [CONF, folder]


def choices(group: str) -> list[str]:
    """The names that GROUP=NAME can take: its files in conf/ and in $BENCH_CONF."""
    return sorted({path.stem for path in files_of(group) if path.is_file()})


def files_of(group: str) -> list[Path]:
    return [path for folder in conf_folders() for path in sorted((folder / group).glob("*.yaml"))]


def load(path: Path) -> dict[str, Any]:
    """The keys and values of one file. Raises ConfigError, with file and line, for one that YAML cannot read."""
    import yaml  # here: `--help` lists the files and reads none
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, for ever
            raise ConfigError(f"{path} is not a file.")
        content = path.read_bytes()
        content.decode("utf-8")
        found = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8 text: save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, {_problem(error)}.") from error
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not OmegaConf.is_dict(found):
        raise ConfigError(f"{path}, line 1: this is not a list of `key: value` lines, which a file of a group is.")
    try:
        values: Any = OmegaConf.to_container(found)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    return values


def _problem(error: yaml.YAMLError) -> str:
    """``line N: what is wrong there``, in YAML's words where they say it."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:  # a character that no file of YAML may hold
        return f"line 1 or later: {' '.join(str(getattr(error, 'reason', error)).split())}"
    problem, start = getattr(error, "problem", None) or "", getattr(error, "context_mark", None)
    if "\\t" in problem:
        return f"line {mark.line + 1}: a tab stands where YAML wants spaces"
    if "quoted scalar" in (getattr(error, "context", None) or "") and start is not None:
        return f"line {start.line + 1}: the quotation mark that opens here is never closed"
    return f"line {mark.line + 1}: {' '.join(problem.split())}"


def explain() -> None:
    """Raise ConfigError for the first file that cannot be read, for Hydra's own errors do not always name theirs."""
    for group in ("experiment", "allocator", "model", "measure"):
        for path in files_of(group):
            load(path)


def check_choice(group: str, name: str) -> None:
    """The file that GROUP=NAME chose can be read, is one, and is what its place says. Raises ConfigError.

    Hydra takes the first of two files in silence; it measures a file without a name under the name of the default, glibc or
    gpt124m; and of an experiment without its first line it says that `experiment` is not a key.
    """
    paths = [path for folder in conf_folders() if os.path.exists(path := folder / group / f"{name}.yaml")]
    values = [load(path) for path in paths]
    if len(paths) > 1 and paths[0].read_bytes() != paths[1].read_bytes():
        raise ConfigError(f"{paths[1]} has the name of a file of ours, which would be taken: give it another name.")
    if not paths:
        return
    if group in ("allocator", "model") and str(values[0].get("name")) != paths[0].stem:
        raise ConfigError(
            f"{paths[0]} must say its own name, `name: {paths[0].stem}`, and it says {values[0].get('name')}."
        )
    if group == "allocator":
        _check_texts(paths[0], values[0].get("env"))
    if group == "experiment" and not re.match(rb"\s*#\s*@package +_global_\s", paths[0].read_bytes()):
        raise ConfigError(
            f"{paths[0]}, line 1: an experiment begins with the line `# @package _global_`, and no byte order mark before it."
        )


def _check_texts(path: Path, env: Any) -> None:
    """Refuse a variable that YAML reads as another text than the one that stands there: 1_000 is 1000, and 1e5 is 100000.0."""
    import yaml

    written = yaml.load(path.read_bytes(), yaml.BaseLoader).get("env")  # every value as a text
    for name, value in env.items() if isinstance(env, dict) else ():
        if type(value) in (int, float) and str(value) != written[name]:
            raise ConfigError(
                f"{path}: env.{name}={written[name]} would be read as {value}: put quotation marks around it."
            )
