"""What several files need: jobs composed as the command line composes them, hand-made ranks, a process group of one."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from builders import SMALL, rank_part
from cluster_of_copies import Cluster, RunHere, take_part
from hydra import compose as hydra_compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf

from bench import cli
from bench.config import compose as configuration
from bench.config.study import Study
from bench.driver import sweep
from bench.job.job import Job, Measure, Train

# jsonschema compiles 38 grammars of Internet names for it when it is imported, which takes four seconds; no schema here has one.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

settings.register_profile(  # BENCH_EXAMPLES=10000 looks longer
    "bench",
    max_examples=int(os.environ.get("BENCH_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("bench")

PLAIN_VALUE = re.compile(rf"(?!(?:hydra|{'|'.join(configuration.GROUPS)})\b[^.])[a-z_]+(\.[a-z_]+)*=")
COMPOSED: dict[Any, bytes] = {}


def compose_once(name: str, overrides: Sequence[str] = (), **options: Any) -> Any:
    """Return what hydra.compose returns. Each choice of files of conf/ is composed once in a session, which takes a tenth of a second,
    and gets plain values after that by the call with which Hydra gives them; what fails is composed by Hydra, whose errors count."""
    chosen = [line for line in overrides if not PLAIN_VALUE.match(line)]
    if any("searchpath" in line for line in chosen):  # of a user's own files, which change
        return hydra_compose(name, overrides, **options)
    key = (name, *chosen, *options.items())
    try:
        if key not in COMPOSED:
            COMPOSED[key] = pickle.dumps(hydra_compose(name, chosen, **options))
        config = pickle.loads(COMPOSED[key])
        for value in OverridesParser.create().parse_overrides([line for line in overrides if line not in chosen]):
            OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
    except Exception:
        return hydra_compose(name, overrides, **options)
    return config


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(configuration, "compose", compose_once)
        yield


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Models this small are slower on more threads, and much slower on cores that others use."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def small_job() -> Job:
    return Job(
        model=SMALL,
        train=Train(global_batch_size=4),
        measure=Measure(warmup_micro_batches=4, iteration_micro_batches=4),
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[Any]]]:
    """Exit code of the command line's words, and the study and jobs that they mean, Hydra included; nothing runs."""
    monkeypatch.delenv("BENCH_CONF", raising=False)

    def run(*words: str) -> tuple[int, list[Any]]:
        caught: list[Any] = []

        def catch(study: Study, jobs: Sequence[Job]) -> int:
            caught.extend([study, list(jobs)])
            return 0

        monkeypatch.setattr(sweep, "run", catch)
        return cli.main(list(words)), caught

    return run


@pytest.fixture
def compose(command: Callable[..., tuple[int, list[Any]]]) -> Callable[..., tuple[Study, list[Job]]]:
    """The study and the jobs that the command line's words mean."""

    def composed(*words: str) -> tuple[Study, list[Job]]:
        code, (study, jobs) = command(*words)
        assert code == 0
        return study, jobs

    return composed


@pytest.fixture
def refused(command: Callable[..., tuple[int, list[Any]]], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The error, and after a semicolon its hint, with which the command line refuses its arguments, with exit code 2 and nothing run."""

    def refusal(*words: str) -> str:
        assert command(*words) == (2, [])
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") <= 2 and "Traceback" not in said
        return said[len("error: ") :].strip().replace("\nhint: ", "; ") + "."

    return refusal


@pytest.fixture(scope="session", autouse=True)
def no_disk_is_waited_for() -> Iterator[None]:
    """os.fsync of a thousand small records, each as long as the host's disk takes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without pictures, which take two seconds a page: for tests of what else stands there."""
    monkeypatch.setattr("bench.report.plots.plots", lambda section, prefix="": [])


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose pictures are made and not rendered, which takes a second for a page: for tests of what else stands there."""
    monkeypatch.setattr(
        "bench.report.plots.svg_text", lambda figure, name, title: f'<svg class="plot" aria-label="{name}"/>'
    )


@pytest.fixture
def make_rank() -> Callable[..., dict[str, Any]]:
    """One rank's part of a record, with a time for each kind of micro-batch and for the optimizer."""

    def make(
        first: float = 3.0,
        middle: float = 2.0,
        last: float = 2.5,
        optimizer: float = 0.5,
        iterations: int = 3,
        count: int = 4,
        rank: int = 0,
        node: int = 0,
        faults: int = 100,
        warm_up: int = 0,
        loss: float = 1.0,
        jitter: Callable[[int], float] = lambda i: 0.0,
    ) -> dict[str, Any]:
        total = iterations * count
        kinds = ["last" if i % count == count - 1 else "first" if i % count == 0 else "middle" for i in range(total)]
        seconds = [{"first": first, "middle": middle, "last": last}[kind] + jitter(i) for i, kind in enumerate(kinds)]
        mb: dict[str, Any] = {
            "iteration": [i // count for i in range(total)],
            "index": [i % count for i in range(total)],
            "kind": kinds,
            "steady": [i >= warm_up for i in range(total)],
            "loss": [loss + i for i in range(total)],
            "forward_seconds": [0.25 * s for s in seconds],
            "backward_seconds": [0.75 * s for s in seconds],
            "rss_bytes": [1 << 20] * total,
        }
        it: dict[str, Any] = {
            "iteration": list(range(iterations)),
            "steady": [i * count >= warm_up for i in range(iterations)],
            "wall_seconds": [sum(seconds[i * count : (i + 1) * count]) + optimizer for i in range(iterations)],
            "optimizer_seconds": [optimizer] * iterations,
            "grad_norm": [1.0] * iterations,
            "loss": [loss] * iterations,
        }
        for i, name in enumerate(("minor_faults", "major_faults", "user_seconds", "system_seconds")):
            mb[f"forward_{name}"] = [faults * 10**-i] * total
            mb[f"backward_{name}"] = [2 * faults * 10**-i] * total
            it[f"optimizer_{name}"] = [5 * faults * 10**-i] * iterations
        return rank_part(rank, node, mb, it, hostname=f"h{node}", peak_rss_bytes=(rank + 1) << 20)

    return make


@pytest.fixture(scope="session")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """gloo with this process alone."""
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("gloo") / "store"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(num_copies: int, ranks: RunHere = take_part, begin: bool = True) -> Cluster:
        made.append(Cluster(num_copies, ranks, monkeypatch))
        for node in reversed(range(1, num_copies)) if begin else ():
            made[-1].follower(node)
        return made[-1]

    yield make
    for one in made:
        one.join()
