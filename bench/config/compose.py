"""From the words of the command line to Jobs: Hydra composes every point of a sweep, and each is checked before the first runs.

Hydra is used by its public compose API and its parser of overrides alone. Its own `hydra.main` is not: it would want a sweeper
plugin in a package of its naming, and write folders of its own.

Whatever is wrong is a ConfigError: one sentence with the key, the value and the way out.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import files
from bench.config.study import Study
from bench.config.typed import typed
from bench.config.words import bare, describe_unknown, nearest, overrides, refuse_unknown
from bench.host.files import file_sha256
from bench.host.interpreter import versions
from bench.host.topology import numa_domains
from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import PARTS, Job
from bench.paths import CONF

# Keys beside the job's own: where results go and how a sweep is arranged, neither of which is part of a job.
OUTSIDE_JOB = ("study", "sweep")
OUTSIDE_MEASURE = ("blocks", "blocks_half_width", "blocks_max_minutes")
GROUPS = ("allocator", "model", "measure", "experiment")
MAX_POINTS = 100_000  # of one sweep; larger products are typing errors, and would exhaust the memory
WHOLE = re.compile(r"(nodes|repeat|seed)=(0|-?[1-9]\d*)")  # a whole number for a key of the job's own
Point = Sequence[str]  # overrides with one value each


def study_of(config: DictConfig) -> Study:
    name, sweep = str(config.study), config.sweep
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ConfigError(f"study={name} is the name of a folder: use letters, digits, dots, dashes and underscores.")
    if not isinstance(sweep, DictConfig):
        raise ConfigError(f"sweep={sweep} is a group of keys: set sweep.KEY.")
    for key in ("shuffle_arms", "html"):
        if not isinstance(sweep.get(key, True), bool):
            raise ConfigError(f"sweep.{key}={sweep[key]} is true or false.")
    interleave = str(sweep.get("interleave", "auto")).lower()
    if interleave not in ("auto", "true", "false"):
        raise ConfigError(f"sweep.interleave={sweep.interleave} is auto, true or false.")
    minutes = sweep.get("max_minutes")
    if minutes is not None and not (type(minutes) in (int, float) and 0 < minutes < math.inf):
        raise ConfigError(f"sweep.max_minutes={minutes} must be a number greater than 0, or null for no limit.")
    measure: Any = OmegaConf.to_container(config.measure, resolve=True)
    values: Any = {key: value for key, value in measure.items() if key in OUTSIDE_MEASURE}
    if values.get("blocks") not in (None, "auto"):
        raise ConfigError(
            f"measure.blocks={values['blocks']} is not auto: for a fixed number of blocks list them, repeat=0,1,2."
        )
    html = bool(sweep.get("html", True))
    return Study(
        name,
        bool(sweep.shuffle_arms),
        interleave,
        str(sweep.reference),
        max_minutes=minutes,
        html=html,
        **values,
    )


def text_of(name: str, value: Any) -> str:
    """The value of an arm's variable. YAML and Hydra make other things of some words, which the allocator must not get as Python
    writes them: None, True. Raises ConfigError."""
    if isinstance(value, str) or type(value) in (int, float):
        return str(value)
    raise ConfigError(
        f"allocator.env.{name}={value} is no text: put quotation marks around it, as in {name}: 'true' in a file, or "
        f"+allocator.env.{name}='\"true\"' in a shell; to leave a variable out, leave its line out."
    )


def job_of(config: DictConfig, numa_domains: int = 1) -> Job:
    """The Job that ``config`` describes. ``numa_domains``: what ``ranks_per_node=auto`` means on this host."""
    values: Any = OmegaConf.to_container(_without_hydra(config), resolve=True)
    outside = {key: values.pop(key, {}) for key in OUTSIDE_JOB}
    refuse_unknown(outside["sweep"], ("shuffle_arms", "interleave", "reference", "max_minutes", "html"), "sweep.")
    if isinstance(values.get("measure"), dict):
        values["measure"] = {key: value for key, value in values["measure"].items() if key not in OUTSIDE_MEASURE}
    auto = values.get("ranks_per_node") == "auto"
    if auto:
        values["ranks_per_node"] = numa_domains
    refuse_unknown(values, [f.name for f in fields(Job)] + list(OUTSIDE_JOB), "")
    if isinstance(values.get("allocator"), dict) and isinstance(values["allocator"].get("env") or {}, dict):
        values["allocator"]["env"] = {k: text_of(k, v) for k, v in (values["allocator"].get("env") or {}).items()}
    for part, schema in PARTS.items():
        values[part] = typed(schema, values.get(part, {}), part)
    scalars = typed(Job, {key: value for key, value in values.items() if key not in PARTS}, "")
    job = dataclasses.replace(scalars, **{part: values[part] for part in PARTS})
    try:
        check(job)
    except ConfigError as error:
        if auto and "ranks_per_node" in str(error):
            raise ConfigError(
                f"ranks_per_node=auto is {numa_domains} on this host, one for each NUMA domain, and {error}"
            ) from error
        raise
    return filled_in(job)


def filled_in(job: Job) -> Job:
    """Return the job with what its paths stand for on this host: versions of the interpreter, SHA-256 of the data. Raises ConfigError."""
    launch = dataclasses.replace(job.launch, software=None)
    if launch.python is not None:
        python = os.path.abspath(os.path.expanduser(launch.python))
        launch = dataclasses.replace(launch, python=python, software=versions(python))
    sha256 = None if job.data.path is None else file_sha256(job.data.path)
    return dataclasses.replace(job, launch=launch, data=dataclasses.replace(job.data, sha256=sha256))


# ---- from words to points


def jobs_of(words: Sequence[str]) -> tuple[Study, list[Job]]:
    """The study, and one job for each point of the sweep that ``words`` ask for: the product in the order written, the last key
    fastest. Every point is composed and checked. Raises ConfigError."""
    with _hydra(words):
        configs = _configurations(points_of(words))
        return study_of(configs[0]), [job_of(config, numa_domains()) for config in configs]


def jobs_of_arms(words: Sequence[str], arms: Sequence[str]) -> list[Job]:
    """One job for each arm, at the one point that ``words`` say; what an experiment sweeps over is left out. Raises ConfigError."""
    with _hydra(words):
        lines = overrides(words)
        for key, values in _parsed(lines).items():
            if len(values) > 1:
                raise ConfigError(
                    f"{bare(key)} has {len(values)} values, and advise looks at one point: give it one value."
                )
        points = [
            [line for values in _parsed([*lines, f"+allocator={arm}"]).values() for line in values] for arm in arms
        ]
        return [job_of(config, numa_domains()) for config in _configurations(points)]


def values_of(words: Sequence[str], key: str) -> list[Any]:
    """The values that ``key`` takes in the sweep of ``words``, as the configuration has them; no point is checked."""
    with _hydra(words):
        points = points_of(words)
        swept = {line for point in points for line in point if bare(line.split("=")[0]) == key}
        if swept:
            return [override.value() for override in OverridesParser.create().parse_overrides(sorted(swept))]
        return [OmegaConf.select(_configurations(points[:1])[0], key)]


def shown(words: Sequence[str], what: str, resolve: bool = False) -> str:
    """The configuration of the first point as YAML. ``what``: job, hydra or all."""
    with _hydra(words):
        points = points_of(words)
        config = _configurations(points[:1])[0]
        if what != "all":
            part = OmegaConf.select(config, "hydra") if what == "hydra" else _without_hydra(config)
            config = OmegaConf.create({"hydra": part}) if what == "hydra" else part
        text = OmegaConf.to_yaml(config, resolve=resolve)
        return f"# the first of {len(points)} jobs\n{text}" if len(points) > 1 else text


def points_of(words: Sequence[str]) -> list[Point]:
    """The product of the words over what the experiment sweeps (`hydra.sweeper.params` of its file). What the words say of a key
    replaces what the experiment says of it."""
    lines = overrides(words)
    given = _parsed(lines)
    for key, values in given.items():
        outside = key == "experiment" or key.split(".")[0] in OUTSIDE_JOB or key.startswith("measure.blocks")
        if outside and len(values) > 1:
            raise ConfigError(f"{key} has {len(values)} values, and is one for the whole sweep: run it once for each.")
    swept = _parsed([line for line in _swept_by_experiment(given) if bare(line.split("=")[0]) not in given])
    axes = [*swept.values(), *given.values()]
    points: list[Point] = list(itertools.islice(itertools.product(*axes), MAX_POINTS + 1))
    if len(points) > MAX_POINTS:
        raise ConfigError(f"these words ask for more than {MAX_POINTS} jobs: give the keys fewer values.")
    return points


def _swept_by_experiment(given: Mapping[str, Sequence[str]]) -> list[str]:
    if "experiment" not in given:
        return []
    (config,) = _configurations([given["experiment"]])
    params = OmegaConf.select(config, "hydra.sweeper.params")
    if params is None:
        return []
    if not OmegaConf.is_dict(params):
        raise ConfigError(f"hydra.sweeper.params={params} of the experiment is not a group of KEY: VALUES lines.")
    values: Any = OmegaConf.to_container(params, resolve=True)
    return overrides([f"{key}={'null' if value is None else value}" for key, value in values.items()])


def _parsed(lines: Sequence[str]) -> dict[str, list[str]]:
    """Each key with the overrides that its values make; a key that is given twice has its last values, as for Hydra."""
    found: dict[str, list[str]] = {}
    for line in lines:
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
def _hydra(words: Sequence[str]) -> Iterator[None]:
    """Hydra reads conf/, and whatever it says against ``words`` becomes a ConfigError."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explained(error, words)) from error


def _configurations(points: Sequence[Point]) -> list[DictConfig]:
    """The configuration of each point; that of the first has `hydra` in it. Each file that was chosen is looked at once: those that the
    words name before Hydra does so, whose errors are without file or line."""
    words = dict.fromkeys(line.partition("=")[::2] for point in points for line in point)
    named = [(bare(key), name) for key, name in words if bare(key) in GROUPS]
    for group, name in named:
        files.check_choice(group, name)
    configs = _composed_once(points)
    chosen = [OmegaConf.select(config, "hydra.runtime.choices") for config in configs if "hydra" in config]
    for group, name in dict.fromkeys((group, choice.get(group)) for choice in chosen for group in GROUPS):
        if name is not None and (group, name) not in named:
            files.check_choice(group, str(name))
    return configs


def _composed_once(points: Sequence[Point]) -> list[DictConfig]:
    """Points that differ in plain numbers alone (`repeat=0,1,2`) are composed once, and get their numbers after that, as Hydra gives
    them: it takes a fifth of a second for a point, and a published sweep has seventy. Only what Hydra composed has `hydra` in it."""
    first: dict[tuple[str, ...], DictConfig] = {}
    configs = []
    for point in points:
        numbers = {match[1]: int(match[2]) for line in point if (match := WHOLE.fullmatch(line))}
        alike = tuple(line.partition("=")[0] if WHOLE.fullmatch(line) else line for line in point)
        config = first.get(alike)
        if config is None:
            config = first[alike] = _composed(point)
        else:
            config = _without_hydra(config)
            for key, value in numbers.items():
                config[key] = value
        configs.append(config)
    return configs


def _composed(point: Point) -> DictConfig:
    """Raises ConfigError, and Hydra's and OmegaConf's errors."""
    search = [str(folder).replace("\\", "\\\\").replace("'", "\\'") for folder in files.conf_folders()[1:]]
    searchpath = [f"hydra.searchpath=['file://{folder}']" for folder in search]
    try:
        return compose("config", [*point, *searchpath], return_hydra_config=True)
    except HydraException:  # of which one is an OSError too
        raise
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        files.explain()
        raise ConfigError(f"a file of conf/ or $BENCH_CONF cannot be read: {str(error).splitlines()[0]}.") from error
    except ValueError as error:  # of `model=null`, and of a file's first lines
        said = str(error).splitlines()[0].rstrip(".")
        if "Config group override" in said:
            said = f"a group takes the name of one of its files, as in model=tiny: {said}"
        raise ConfigError(f"{said}.") from error


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _explained(error: Exception, words: Sequence[str]) -> str:
    """Hydra's several lines as one sentence with the way out."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group and files.choices(group):
            return f"{group}={name} is not there; {nearest(name, files.choices(group))}"
    for word in words:
        key = bare(word.split("=")[0])
        if f"'{key}'" in text and "Could not override" in text:
            known: Any = OmegaConf.to_container(compose("config"))
            return describe_unknown(key, known)
    said = " ".join(line.strip() for line in text.splitlines()[:2]) or "these words cannot be composed"
    said = re.sub(r"\w+(Error|Exception) raised while composing config:", "the values do not fit:", said)
    return said if said.endswith((".", "?")) else f"{said}."
