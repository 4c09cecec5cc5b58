"""The command line: a command of ours, or Hydra overrides that say what to measure."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Callable

from bench import __version__
from bench.config.words import describe_unknown, group_choices, nearest, overrides
from bench.paths import CONF
from bench.schema.errors import ConfigError, RecordError

USAGE = """\
python -m bench [overrides]           measure one job, e.g.  +allocator=tcmalloc nodes=2
python -m bench -m [overrides]        sweep, e.g.  -m repeat=0,1,2 +allocator=glibc,tcmalloc
python -m bench +experiment=NAME      {experiments}
python -m bench report DIR [DIR ...]  tables, plots and the verdict from the records under DIR
python -m bench compare A B           was A reproduced by B? (a results folder, a record, or published.csv)
python -m bench rerun RECORD|DIR      the same configuration, here
python -m bench advise [overrides]    search the arms on this host for the fastest setting
python -m bench slurm [options] -- [overrides]   print a job script
python -m bench doctor                what this host has and lacks for a fair measurement
python -m bench --version

allocators: {allocators}
models:     {models}
Results go to $BENCH_OUT, else ./results. Hydra's own flags work too: --cfg job shows the configuration.
"""


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 fine, 1 a job failed, 2 the user's words were wrong, 130 interrupted."""
    argv = list(argv)
    try:
        if argv and argv[0] in COMMANDS:
            return COMMANDS[argv[0]](argv[1:])
        if argv and argv[0] in ("--version", "version"):
            print(__version__)
            return 0
        if argv and argv[0] in ("-h", "--help", "help"):
            print(usage(), end="")
            return 0
        if argv and "=" not in argv[0] and not argv[0].startswith(("-", "~")):
            raise ConfigError(f"{argv[0]} is not a command; {nearest(argv[0], list(COMMANDS))}")
        return measure(argv)
    except (ConfigError, RecordError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1 if isinstance(error, RecordError) else 2
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("bench: stopped before anything was measured.", file=sys.stderr)
        return 130


def usage() -> str:
    choices = {group: ", ".join(group_choices(CONF / group)) for group in ("experiment", "allocator", "model")}
    return USAGE.format(experiments=choices["experiment"], allocators=choices["allocator"], models=choices["model"])


def measure(argv: list[str]) -> int:
    """Hydra composes and our sweeper runs: one job is a sweep of one. The sweeper ends with the exit code."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one sentence
    sys.argv = ["bench", *overrides(argv)]

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def run(config: Any) -> None:
        raise AssertionError("conf/config.yaml sets hydra.mode, so Hydra calls the sweeper and never this")

    try:
        run()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, argv)) from error
    except ValueError as error:  # Hydra's own word for `model=null`
        if "Config group override" not in str(error):
            raise
        raise ConfigError(f"a group takes the name of one of its files, as in model=tiny: {error}.") from error
    return 0


def explain(error: Exception, argv: Sequence[str]) -> str:
    """Hydra's several lines as one sentence with the way out."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import MissingConfigException

    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group:
            return f"{group}={name} is not there; {nearest(name, group_choices(CONF / group))}"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = compose("config")
    for word in argv:
        key = word.split("=")[0].lstrip("+~")
        if f"'{key}'" in text and "Could not override" in text:
            from omegaconf import OmegaConf

            return describe_unknown(key, OmegaConf.to_container(known))
    return " ".join(line.strip() for line in text.splitlines()[:2])


def report(argv: list[str]) -> int:
    from bench.commands.report import main as run

    return run(argv)


def doctor(argv: list[str]) -> int:
    from bench.commands.doctor import main as run

    return run(argv)


def slurm(argv: list[str]) -> int:
    from bench.commands.jobscript import main as run

    return run(argv)


def rerun(argv: list[str]) -> int:
    from bench.commands.rerun import main as run

    return run(argv)


def compare(argv: list[str]) -> int:
    from bench.commands.compare import main as run

    return run(argv)


def advise(argv: list[str]) -> int:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from bench.commands.advise import main as run

    try:
        return run(argv)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, argv)) from error


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "report": report,
    "doctor": doctor,
    "slurm": slurm,
    "rerun": rerun,
    "compare": compare,
    "advise": advise,
}
