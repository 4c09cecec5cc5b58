"""YAML files: ours in conf/ and the user's in $BENCH_CONF. An error in one names file and line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.job.errors import ConfigError
from bench.paths import CONF, given_path

if TYPE_CHECKING:
    import yaml

GROUPS = ("experiment", "allocator", "model", "measure")


def conf_folders() -> list[Path]:
    """Return conf/, then the folder of $BENCH_CONF if it is set. Raises ConfigError where that is not a folder."""
    extra = os.environ.get("BENCH_CONF")
    folders = [CONF, given_path(extra).absolute()] if extra else [CONF]
    if not folders[-1].is_dir():
        raise ConfigError(
            f"BENCH_CONF={extra} is not a folder: name one that holds allocator/NAME.yaml or model/NAME.yaml, or unset it."
        )
    return folders


def choices(group: str) -> list[str]:
    """Return the names that GROUP=NAME can take: its files in conf/ and in $BENCH_CONF."""
    return sorted({path.stem for path in files_of(group) if path.is_file()})


def files_of(group: str) -> list[Path]:
    return [path for folder in conf_folders() for path in sorted((folder / group).glob("*.yaml"))]


def load(path: Path) -> dict[str, Any]:
    """Return the keys and values of one file. Raises ConfigError, with file and line, for one that YAML cannot read."""
    import yaml  # here: `--help` lists the files and reads none
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if path.exists() and not path.is_file():  # opening a FIFO would block
            raise ConfigError(f"{path} is not a file.")
        content = path.read_bytes()
        content.decode("utf-8")
        found = OmegaConf.load(path)
        values: Any = OmegaConf.to_container(found) if OmegaConf.is_dict(found) else None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8 text: save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}, {_problem(error)}.") from error
    except ConfigError:
        raise
    except (OSError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read: {why}.") from error
    if values is None:
        raise ConfigError(f"{path}, line 1: this is not a list of `key: value` lines, which a file of a group is.")
    return values


def _problem(error: yaml.YAMLError) -> str:
    """Return ``line N: what is wrong there``, in YAML's words where it has any."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that no file of YAML may hold
        return f"line 1 or later: {' '.join(str(getattr(error, 'reason', error)).split())}"
    return f"line {mark.line + 1}: {' '.join((getattr(error, 'problem', None) or '').split())}"


def check_all() -> None:
    """Raise ConfigError for the first file that cannot be read. Hydra's own errors do not always name theirs."""
    for path in (path for group in GROUPS for path in files_of(group)):
        load(path)


def check_choice(group: str, name: str) -> None:
    """Raise ConfigError unless the file that GROUP=NAME chose can be read, is the only one, and has the right name.

    Hydra takes the first of two files without a message, measures a file without a name under the name of the default (glibc or
    gpt124m), and reports an experiment without its first line as a missing key.
    """
    paths = [path for folder in conf_folders() if os.path.exists(path := folder / group / f"{name}.yaml")]
    values = [load(path) for path in paths]
    if not paths:
        return
    first, content = paths[0], [path.read_bytes() for path in paths]
    if content[0] != content[-1]:
        raise ConfigError(f"{paths[-1]} has the name of a file of ours, which would be taken: give it another name.")
    given = values[0].get("name")
    if group in ("allocator", "model") and str(given) != first.stem:
        raise ConfigError(f"{first}: name={given} must be the name of the file, `name: {first.stem}`.")
    if group == "allocator":
        _check_texts(first, values[0].get("env"))
    if group == "experiment" and not re.match(rb"\s*#\s*@package +_global_\s", content[0]):
        raise ConfigError(
            f"{first}, line 1: an experiment begins with the line `# @package _global_`, and no byte order mark before it."
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
