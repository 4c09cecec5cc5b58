"""From the command line's arguments to Jobs: Hydra composes every point of a sweep, and each is checked before the first runs.

Hydra is used by its public compose API and its override parser alone. `hydra.main` would want a sweeper plugin in a package of its own,
and write folders of its own. Every error is a ConfigError: one sentence with the key, the value and the hint.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import files
from bench.config.files import GROUPS
from bench.config.overrides import as_declared, as_text, bare, describe_unknown, nearest, overrides, refuse_unknown
from bench.config.study import Study
from bench.host.files import file_sha256
from bench.host.interpreter import versions
from bench.host.topology import numa_domains
from bench.job.checks import NAME, checked, converted
from bench.job.errors import ConfigError
from bench.job.job import PARTS, Job
from bench.paths import CONF, given_path

# Keys beside the job's own: where results go and how a sweep is arranged, neither of which is part of a job.
OUTSIDE_JOB = ("study", "sweep")
OUTSIDE_MEASURE = ("blocks", "blocks_half_width", "blocks_max_minutes")
PAD = 128  # of the vocabulary, for each rank of a tensor-parallel group
MAX_POINTS = 100_000  # of one sweep; larger products are typing errors, and would exhaust the memory
WHOLE = re.compile(r"(nodes|repeat|seed)=(0|-?[1-9]\d*)")  # a whole number for a key of the job's own
Point = Sequence[str]  # overrides with one value each


def study_of(config: DictConfig) -> Study:
    """Return what surrounds the jobs. Raises ConfigError."""
    values = _plain(config)
    name, sweep, measure = values["study"], values["sweep"], values["measure"]
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ConfigError(
            f"study={name} is the name of a folder: use letters, digits, dots, dashes and underscores, and quotation marks in a file."
        )
    if not isinstance(sweep, dict):
        raise ConfigError(f"sweep={sweep} is a group of keys: set sweep.KEY.")
    interleave = str(sweep.get("interleave", "auto")).lower()
    if interleave not in ("auto", "true", "false"):
        raise ConfigError(f"sweep.interleave={sweep['interleave']} is auto, true or false.")
    if (blocks := measure.get("blocks")) not in (None, "auto"):
        raise ConfigError(f"measure.blocks={blocks} is not auto: for a fixed number of blocks list them, repeat=0,1,2.")
    texts = {"name": name, "interleave": interleave, "reference": str(sweep["reference"])}
    study = converted({**sweep, **texts}, Study, "sweep")
    own = {"name": name, **{key: measure[key] for key in OUTSIDE_MEASURE if key in measure}}
    return dataclasses.replace(study, **{key: getattr(converted(own, Study, "measure"), key) for key in own})


def job_of(config: DictConfig, numa_domains: int = 1) -> Job:
    """Return the Job that ``config`` describes. ``numa_domains``: what ``ranks_per_node=auto`` means on this host."""
    values = _plain(config)
    sweep = {key: values.pop(key, {}) for key in OUTSIDE_JOB}["sweep"]
    options = ("name", "quiet", "verbose", "tables")
    keys = [f.name for f in dataclasses.fields(Study) if f.name not in (*options, *OUTSIDE_MEASURE)]
    refuse_unknown(sweep, keys, "sweep.")
    if isinstance(values.get("measure"), dict):
        values["measure"] = {key: value for key, value in values["measure"].items() if key not in OUTSIDE_MEASURE}
    auto = values.get("ranks_per_node") == "auto"
    if auto:
        values["ranks_per_node"] = numa_domains
    refuse_unknown(values, [*(field.name for field in dataclasses.fields(Job)), *OUTSIDE_JOB], "")
    values.update({part: as_declared(schema, values.get(part, {}), part) for part, schema in PARTS.items()})
    if isinstance(path := values["data"].get("path"), str):
        values["data"]["path"] = str(given_path(path))
    try:
        values["model"] = padded(values["model"], values["parallel"])
        return filled_in(checked(values))
    except ConfigError as error:
        if auto and "ranks_per_node" in str(error):
            raise ConfigError(
                f"ranks_per_node=auto is {numa_domains} on this host, one for each NUMA domain, and {error}"
            ) from error
        raise


def padded(model: dict[str, Any], parallel: dict[str, Any]) -> dict[str, Any]:
    """Return the model with the vocabulary padded as Megatron pads it for this tensor-parallel size: to a multiple of 128 for each rank."""
    vocabulary, tensor = model.get("padded_vocabulary"), parallel.get("tensor")
    if type(vocabulary) is not int or type(tensor) is not int or tensor < 2:
        return model
    return {**model, "padded_vocabulary": -(-vocabulary // (PAD * tensor)) * PAD * tensor}


def filled_in(job: Job) -> Job:
    """Return the job with what its paths stand for on this host: versions of the interpreter, SHA-256 of the data. Raises ConfigError."""
    launch = dataclasses.replace(job.launch, software=None)
    if launch.python is not None:
        python = os.path.abspath(os.path.expanduser(launch.python))
        launch = dataclasses.replace(launch, python=python, software=versions(python))
    sha256 = None if job.data.path is None else file_sha256(job.data.path)
    return dataclasses.replace(job, launch=launch, data=dataclasses.replace(job.data, sha256=sha256))


# ---- from arguments to points


def jobs_of(arguments: Sequence[str]) -> tuple[Study, list[Job]]:
    """Return the study, and one checked job for each point: the product in the order written, the last key fastest. Raises ConfigError."""
    with _hydra(arguments):
        configs = _configurations(points_of(arguments))
        return study_of(configs[0]), [job_of(config, numa_domains()) for config in configs]


def jobs_of_arms(arguments: Sequence[str], arms: Sequence[str]) -> list[Job]:
    """Return one job for each arm, at the one point of ``arguments``; what an experiment sweeps over is left out. Raises ConfigError."""
    with _hydra(arguments):
        given = _parsed(overrides(arguments))
        for key, values in given.items():
            if len(values) > 1:
                raise ConfigError(
                    f"{key} has {len(values)} values, and advise compares allocators at one point: give it one."
                )
        point = [line for (line,) in given.values()]
        return [job_of(one, numa_domains()) for one in _configurations([[*point, f"+allocator={a}"] for a in arms])]


def values_of(arguments: Sequence[str], key: str) -> list[Any]:
    """Return the values that ``key`` takes in the sweep of ``arguments``; no point is checked."""
    with _hydra(arguments):
        points = points_of(arguments)
        swept = {line for point in points for line in point if bare(line.split("=")[0]) == key}
        if swept:
            return [override.value() for override in OverridesParser.create().parse_overrides(sorted(swept))]
        return [OmegaConf.select(_configurations(points[:1])[0], key)]


def shown(arguments: Sequence[str]) -> str:
    """Return the configuration of the first point as YAML."""
    with _hydra(arguments):
        points = points_of(arguments)
        text = OmegaConf.to_yaml(_without_hydra(_configurations(points[:1])[0]), resolve=True)
        return f"# the first of {len(points)} jobs\n{text}" if len(points) > 1 else text


def points_of(arguments: Sequence[str]) -> list[Point]:
    """Return the product of the arguments over what the experiment sweeps (`hydra.sweeper.params`), which they replace key by key."""
    given = _parsed(overrides(arguments))
    for key, values in given.items():
        outside = key == "experiment" or key.split(".")[0] in OUTSIDE_JOB or key.startswith("measure.blocks")
        if outside and len(values) > 1:
            raise ConfigError(f"{key} has {len(values)} values, and is one for the whole sweep: run it once for each.")
    swept = _parsed([line for line in _swept_by_experiment(given) if bare(line.split("=")[0]) not in given])
    product = itertools.product(*swept.values(), *given.values())
    points: list[Point] = list(itertools.islice(product, MAX_POINTS + 1))
    if len(points) > MAX_POINTS:
        raise ConfigError(f"these arguments ask for more than {MAX_POINTS} jobs: give the keys fewer values.")
    return points


def _swept_by_experiment(given: Mapping[str, Sequence[str]]) -> list[str]:
    configs = _configurations([given["experiment"]]) if "experiment" in given else []
    params: Any = OmegaConf.select(configs[0], "hydra.sweeper.params") if configs else None
    if params is None:
        return []
    if not OmegaConf.is_dict(params):
        raise ConfigError(f"hydra.sweeper.params={params} of the experiment is not a group of KEY: VALUES lines.")
    values: Any = OmegaConf.to_container(params, resolve=True)
    return overrides([f"{key}={'null' if value is None else value}" for key, value in values.items()])


def _parsed(lines: Sequence[str]) -> dict[str, list[str]]:
    """Return each key with the overrides that its values make; a key that is given twice has its last values, as for Hydra."""
    found: dict[str, list[str]] = {}
    for line in map(as_text, lines):
        try:
            (override,) = OverridesParser.create().parse_overrides([line])
            key = override.get_key_element()
            found[bare(key)] = [f"{key}={value}" for value in _values(override)]
        except ConfigError:
            raise
        except (HydraException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            key, _, value = line.partition("=")
            raise ConfigError(
                f"{bare(key)}={value} cannot be read: a sweep is a list, 1,2,4, or range(1,5), and a value with other than plain "
                f"characters stands in quotes, '{bare(key)}=\"{value}\"' in a shell."
            ) from error
    return found


def _values(override: Override) -> list[str]:
    line, key = override.input_line, override.key_or_group
    value: Any = override.value()
    if not override.is_sweep_override():
        if key in GROUPS and isinstance(value, list):
            raise ConfigError(f"{line} would merge files into one: choose one, or sweep over them, {key}=NAME,NAME.")
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{line} is an interval, which has no list of values: use range(1,5) or a list, 1,2,4.")
    if isinstance(value, Glob):
        values, names = value.filter(files.choices(key)), ", ".join(files.choices(key))
        wrong = f"{line} matches no file of {key}; there are {names}."
    else:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_POINTS + 1))
        wrong = f"{line} has no values: give it one or more, as in {key}=1,2."
    if not values:
        raise ConfigError(wrong)
    return values


# ---- from a point to a configuration


@contextmanager
def _hydra(arguments: Sequence[str]) -> Iterator[None]:
    """Have Hydra read conf/; its errors about ``arguments`` become ConfigErrors."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explained(error, arguments)) from error


def _configurations(points: Sequence[Point]) -> list[DictConfig]:
    """Return the configuration of each point; that of the first has `hydra` in it.

    Each chosen file is checked once: those that the arguments name before Hydra reads them, whose errors are without file or line.
    Points that differ in plain numbers alone (`repeat=0,1,2`) are composed once, because Hydra takes a fifth of a second for a point.
    """
    arguments = dict.fromkeys(line.partition("=")[::2] for point in points for line in point)
    named = [(bare(key), name.strip('"')) for key, name in arguments if bare(key) in GROUPS]
    for group, name in named:
        files.check_choice(group, name)
    composed: dict[tuple[str, ...], DictConfig] = {}
    configs = []
    for point in points:
        numbers = {match[1]: int(match[2]) for line in point if (match := WHOLE.fullmatch(line))}
        alike = tuple(line.partition("=")[0] if WHOLE.fullmatch(line) else line for line in point)
        if alike in composed:
            configs.append(OmegaConf.merge(_without_hydra(composed[alike]), numbers))
        else:
            composed[alike] = _composed(point)
            configs.append(composed[alike])
    chosen = [OmegaConf.select(config, "hydra.runtime.choices") for config in composed.values()]
    for group, name in dict.fromkeys((group, choice.get(group)) for choice in chosen for group in GROUPS):
        if name is not None and (group, name) not in named:
            files.check_choice(group, str(name))
    return configs  # type: ignore[return-value]


def _composed(point: Point) -> DictConfig:
    """Return one point's configuration. Raises ConfigError, and Hydra's and OmegaConf's errors."""
    search = [str(folder).replace("\\", "\\\\").replace("'", "\\'") for folder in files.conf_folders()[1:]]
    searchpath = [f"hydra.searchpath=['file://{folder}']" for folder in search]
    try:
        return compose("config", [*point, *searchpath], return_hydra_config=True)
    except HydraException:  # of which one is an OSError too
        raise
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        files.check_all()
        raise ConfigError(f"a file of conf/ or $BENCH_CONF cannot be read: {str(error).splitlines()[0]}.") from error
    except ValueError as error:  # of a file's first lines
        raise ConfigError(f"{str(error).splitlines()[0].rstrip('.')}.") from error


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _plain(config: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(_without_hydra(config), resolve=True)
    return values


def _explained(error: Exception, arguments: Sequence[str]) -> str:
    """Return Hydra's several lines as one sentence with a hint."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group and files.choices(group):
            return f"{group}={name} is not there; {nearest(name, files.choices(group))}"
    for key in (bare(word.split("=")[0]) for word in arguments):
        if f"'{key}'" in text and "Could not override" in text:
            return describe_unknown(key, _plain(compose("config")))
    what = " ".join(line.strip() for line in text.splitlines()[:2]) or "these arguments cannot be composed"
    what = re.sub(r"\w+(Error|Exception) raised while composing config:", "the values do not fit:", what)
    return what if what.endswith((".", "?")) else f"{what}."
