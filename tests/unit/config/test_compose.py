from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import with_value
from conftest import compose_once
from hydra import compose as hydra_compose
from omegaconf import OmegaConf

from bench import cli
from bench.config import compose
from bench.config.compose import job_of
from bench.job.checks import check
from bench.job.errors import ConfigError
from bench.job.job import Job, to_dict
from bench.workloads.gpt.fits import check_fits


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text").write_bytes(b"x" * 1025)
    return str(tmp_path / "text")


# Values that cannot be: the key, its value, and what the sentence must name besides.


@pytest.mark.parametrize(
    "key, value, names",
    [
        *((key, 0, "greater than 0") for key in (
            "nodes ranks_per_node model.layers model.hidden model.heads model.sequence model.vocabulary train.micro_batch_size "
            "train.global_batch_size measure.iteration_micro_batches measure.max_samples"
        ).split()),
        *((key, 0.0, "greater than 0") for key in (
            "train.lr train.clip_grad launch.timeout_seconds measure.relative_half_width measure.max_seconds"
        ).split()),
        *(("allocator.name", name, "folder") for name in ("a/b", "", "-a", "a,b")),
        *((key, float("inf"), "finite") for key in ("train.lr", "measure.max_seconds")),
        *((key, -1, "0 or more") for key in ("repeat", "seed")),
        *((key, 2, "divides nodes * ranks_per_node = 1 * 1") for key in ("parallel.tensor", "parallel.pipeline")),
        ("parallel.tensor", 5, "a divisor of model.heads=12"),
        ("parallel.pipeline", 5, "a divisor of model.layers=12"),
        *((key, 0, "greater than 0") for key in ("parallel.tensor", "parallel.pipeline")),
        *(("allocator.env", {name: "x"}, "allocator.library") for name in ("LD_PRELOAD", "LD_AUDIT")),
        ("nodes", -1, "greater than 0"),
        ("model.heads", 7, "model.hidden=768"),
        ("model.padded_vocabulary", 50256, "model.vocabulary=50257"),
        ("model.ops", "fused", "megatron, lean"),
        ("measure.mode", "half", "sampled, full"),
        ("train.lr", float("nan"), "finite"),
        ("train.dropout", 1.0, "less than 1"),
        ("train.dropout", -0.1, "at least 0"),
        ("train.global_batch_size", 1023, "train.micro_batch_size * nodes * ranks_per_node = 4 * 1 * 1 = 4"),
        ("launch.threads_per_rank", 0, "greater than 0"),
        ("data.path", "/nowhere/at/all", "model.sequence=1024 bytes"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_with_key_value_and_reason(key: str, value: Any, names: str) -> None:
    job = (
        with_value(Job(), "train.micro_batch_size", 4) if key == "train.global_batch_size" and value == 1023 else Job()
    )
    check(job)
    with pytest.raises(ConfigError) as caught:
        check(with_value(job, key, value))
    said = str(caught.value)
    shown = key if isinstance(value, dict) else f"{key}={value}"
    assert (shown in said or key == "allocator.env") and names in said and said.endswith(".") and "\n" not in said


def test_full_mode_needs_iterations_and_none_of_the_samples(text: str) -> None:
    full = with_value(Job(), "measure.mode", "full")
    for name in ("iteration_micro_batches", "relative_half_width", "max_samples", "max_seconds"):
        check(with_value(full, f"measure.{name}", 0))
    with pytest.raises(ConfigError, match="measure.iterations=0"):
        check(with_value(full, "measure.iterations", 0))
    check(with_value(Job(), "measure.iterations", 0))


def test_a_file_of_tokens_must_hold_a_window_of_bytes_of_the_vocabulary(text: str) -> None:
    job = with_value(Job(), "data.path", text)
    check(job)
    with pytest.raises(ConfigError, match="data.path=.* more than model.sequence=1025 bytes"):
        check(with_value(job, "model.sequence", 1025))
    small = with_value(with_value(job, "model.vocabulary", 255), "model.padded_vocabulary", 256)
    with pytest.raises(ConfigError, match="model.vocabulary=255 must be at least 256 when data.path"):
        check(small)
    check(with_value(small, "data.path", None))


# What does not fit on the host

GIB = 1 << 30


@pytest.mark.parametrize(
    "ranks, over, gib, words",
    [
        (2, False, 10, ""),
        (3, True, 100, ""),
        (3, False, 100, "starts 3 ranks on this host, which has 2 cores.*launch.oversubscribe=true"),
        (2, False, 5, r"2 ranks on this host needs about [78]\.. GiB, and 5.0 GiB are free: use a smaller model"),
        (3, True, 1, "GiB are free"),
    ],
)
def test_what_does_not_fit_is_refused(ranks: int, over: bool, gib: int, words: str) -> None:
    job = with_value(Job(nodes=ranks), "launch.oversubscribe", over)
    with pytest.raises(ConfigError, match=words) if words else contextlib.nullcontext():
        check_fits(job, ranks, 2, gib * GIB)


def test_memory_is_looked_at_where_it_is_bound() -> None:
    job, two = Job(ranks_per_node=4), 2 * Job().rank_bytes
    check_fits(job, 4, 8, 100 * GIB, [(0, 2, two), (7, 2, two)])
    with pytest.raises(ConfigError, match="ranks_per_node=4 binds 2 ranks to NUMA node 7 .* GiB and .* GiB are free"):
        check_fits(job, 4, 8, 100 * GIB, [(0, 2, two), (7, 2, two - 1)])


# Types, and keys that are not there


def config_of(**changes: Any) -> Any:
    values = {**to_dict(Job()), "study": "main", "sweep": {"shuffle_arms": True, "reference": "glibc"}}
    return OmegaConf.merge(OmegaConf.create(values), changes)


def test_a_configuration_becomes_the_job_that_it_says() -> None:
    job = job_of(config_of(nodes=2, train={"dropout": 0}, allocator={"env": {"A": 1}}, launch={"threads_per_rank": 2}))
    expected = with_value(with_value(Job(nodes=2), "train.dropout", 0.0), "allocator.env", {"A": "1"})
    assert job == with_value(expected, "launch.threads_per_rank", 2)
    assert isinstance(job.train.dropout, float) and job.allocator.env == {"A": "1"}
    with pytest.raises(AttributeError):
        job.nodes = 3  # type: ignore[misc]


@pytest.mark.parametrize("numa", [1, 4])
def test_auto_ranks_are_one_per_numa_domain(numa: int) -> None:
    assert job_of(config_of(ranks_per_node="auto"), numa).ranks_per_node == numa


def test_a_batch_that_auto_does_not_divide_is_refused_with_what_auto_is() -> None:
    with pytest.raises(
        ConfigError, match="ranks_per_node=auto is 3 on this host.*global_batch_size=1024 .* 1 .* 3 = 3"
    ):
        job_of(config_of(ranks_per_node="auto"), 3)
    with pytest.raises(ConfigError) as error:  # of another key: auto has no part in it
        job_of(config_of(ranks_per_node="auto", train={"dropout": 2.0}), 4)
    assert "auto" not in str(error.value)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["+typo=1"], "typo is not a key; there are allocator, data,"),
        (["train.dropuot=0"], "train.dropuot is not a key; did you mean train.dropout?"),
        (["++sweep.refrence=a"], "sweep.refrence is not a key; did you mean sweep.reference?"),
        (["allocator.nmae=a"], "allocator.nmae is not a key; did you mean allocator.name?"),
        (["+allocator=tcmaloc"], "allocator=tcmaloc is not there; did you mean tcmalloc?"),
        (["nodes=two"], "nodes=two: expected `int`, got `str`."),
        (["train.dropout=abc"], "train.dropout=abc: expected `float`"),
        (["train=3"], "train=3 is a group of keys"),
        (["allocator.env=5"], "allocator.env=5: expected a group of keys"),
        (["sweep=1"], "sweep=1 is a group of keys"),
        (["sweep.shuffle_arms=maybe"], "sweep.shuffle_arms=maybe: expected `bool`"),
        (["sweep.max_minutes=0"], "sweep.max_minutes=0: expected `float` > 0.0"),
        (["sweep.max_minutes=nan"], "sweep.max_minutes=nan: expected `float` > 0.0"),
        (["~model"], "~model takes a key away, and a job needs every key; give it another value, model=VALUE."),
        (["study=ä"], "study=ä cannot be read: "),
        (["nodes=range(1,2,0)"], "nodes=range(1,2,0) cannot be read: "),
        (["nodes=interval(1,2)"], "nodes=interval(1,2) is an interval"),
        (["nodes=range(1,inf)"], "more than 100000 jobs"),
        (["+allocator=glob(x*)"], "+allocator=glob(x*) matches no file of allocator; there are fugaku_pool, glibc,"),
        (["allocator=[glibc,tcmalloc]"], "would merge files into one"),
        (["model=null"], "model=null is not there; there are "),
        (["experiment=smoke,tcmalloc"], "experiment has 2 values, and is one for the whole sweep"),
        (["sweep.reference=a,b"], "sweep.reference has 2 values"),
        (["allocator.env={A:1}"], "allocator.env: a key in its value is not there; add one by its own name"),
        (["hydra.run.dir=x"], "hydra.run.dir is a key of Hydra's own"),
        (["hydra/launcher=x"], "hydra/launcher is a key of Hydra's own"),
        (["+hydra.searchpath=[x]"], "hydra.searchpath is a key of Hydra's own"),
        (["nodes=1", "--config-name=x"], "unrecognized arguments: --config-name=x"),
        (["--frob"], "unrecognized arguments: --frob"),
        (["-m", "report"], "report is a command; write it first"),
        (["-m", "nodes"], "nodes is not KEY=VALUE"),
        (["=3"], "=3 is not KEY=VALUE"),
        (["nodes=1\n", "x=\t"], "nodes=1\\n"),
        (["nodes=(1"], "nodes=(1 cannot be read"),
        (["nodes=${nods}"], "nods"),
        *(([f"study={name}"], f"study={name} is the name of a folder") for name in ("a/b", "../up", ".hidden")),
        (["nodes=3"], "train.global_batch_size=1024 must be a multiple"),
        (["measure.blocks=3"], "measure.blocks=3 is not auto"),
        (["measure.blocks_half_width=wide"], "measure.blocks_half_width=wide: "),
        (["measure.blocks_half_width=-1"], "measure.blocks_half_width=-1: expected `float` > 0"),
        (["measure.blocks_max_minutes=1e308"], "measure.blocks_max_minutes=1e+308: expected `float` <= 1000000"),
        (
            ["train.global_batch_size=99999999999999999999"],
            "train.global_batch_size=99999999999999999999 must be at most ",
        ),
        (["repeat=2147483648"], "repeat=2147483648 must be at most 2147483647."),
        (["seed=99999999999999999999"], "seed=99999999999999999999 must be at most 9007199254740992."),
        (["nodes=2147483647"], "nodes=2147483647 must be at most 1048576."),
        (["launch.timeout_seconds=1e300"], "launch.timeout_seconds=1e+300 must be at most 2000000"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(words: list[str], sentence: str, refused: Callable[..., str]) -> None:
    assert sentence in refused(*words)


# The points of a sweep


def lines(*words: str) -> list[list[str]]:
    with compose._hydra(words):
        return [list(point) for point in compose.points_of(words)]


def test_the_product_is_in_the_order_written_and_the_last_key_is_the_fastest() -> None:
    assert lines("nodes=2,1", "repeat=range(0,2)", "seed=5") == [
        ["nodes=2", "repeat=0", "seed=5"],
        ["nodes=2", "repeat=1", "seed=5"],
        ["nodes=1", "repeat=0", "seed=5"],
        ["nodes=1", "repeat=1", "seed=5"],
    ]


@pytest.mark.parametrize(
    "words, values",
    [
        (["nodes=choice(1,8)"], ["nodes=1", "nodes=8"]),
        (["nodes=sort(3,1,2)"], ["nodes=1", "nodes=2", "nodes=3"]),
        (["nodes=1", "++nodes=2"], ["++nodes=2"]),
        (["+allocator=glob(tcmalloc_*)"], ["keep", "minimal", "release"]),
        (["+allocator=glob([tcmalloc*],exclude=[*_*])"], ["+allocator=tcmalloc"]),
        (["data.path='a, b'"], ["data.path='a, b'"]),
    ],
)
def test_what_one_key_is_swept_over(words: list[str], values: list[str]) -> None:
    found = [point[0] for point in lines(*words)]
    assert len(found) == len(values) and all(line.endswith(value) for line, value in zip(found, values))


def test_the_command_line_replaces_what_the_experiment_sweeps_over() -> None:
    alone = lines("experiment=tcmalloc")
    assert [point[:2] for point in alone] == [["repeat=0", "+allocator=glibc"], ["repeat=0", "+allocator=tcmalloc"]]
    assert lines("experiment=tcmalloc", "repeat=7", "allocator=jemalloc,glibc") == [
        ["+experiment=tcmalloc", "repeat=7", "+allocator=jemalloc"],
        ["+experiment=tcmalloc", "repeat=7", "+allocator=glibc"],
    ]


def test_points_that_differ_in_plain_numbers_alone_are_composed_once_and_are_the_same_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def counted(name: str, point: list[str], **options: Any) -> Any:
        asked.append(point)
        return hydra_compose(name, point, **options)

    monkeypatch.setattr(compose, "compose", counted)
    words = ["train.global_batch_size=8", "nodes=1,2", "repeat=0,3", "allocator=glibc,tcmalloc", "model=tiny"]
    jobs = compose.jobs_of(words)[1]
    assert len(jobs) == 8 and len(asked) == 2, "once for each arm"
    for place, own in (
        (1, ["nodes=1", "repeat=0", "allocator=tcmalloc"]),
        (6, ["nodes=2", "repeat=3", "allocator=glibc"]),
    ):
        assert compose.jobs_of([words[0], *own, "model=tiny"])[1] == [jobs[place]]
    with pytest.raises(ConfigError, match="repeat=-1"):
        compose.jobs_of(["repeat=0,-1"])


@pytest.mark.parametrize(
    "words",
    [
        ["+experiment=smoke", "nodes=2", "study=2024_05", "train.lr=1e-3"],
        ["data.path='a, b'", "+allocator.env.A=1", "model=tiny"],
    ],
)
def test_these_tests_compose_as_hydra_does(words: list[str]) -> None:
    """``compose_once``: what it keeps is not what a test before changed."""
    with compose._hydra(words):
        wanted = compose._without_hydra(hydra_compose("config", words, return_hydra_config=True))
        for _ in range(2):
            found = compose._without_hydra(compose_once("config", words, return_hydra_config=True))
            assert found == wanted
            OmegaConf.update(found, "nodes", 99)


def test_glob_finds_the_arms_of_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "allocator").mkdir()
    (tmp_path / "allocator" / "glibc_mine.yaml").write_text("name: glibc_mine")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path))
    assert ["+allocator=glibc_mine"] in lines("+allocator=glob(glibc*)")


def test_the_configuration_is_shown_and_says_when_it_is_one_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--cfg", "job", "nodes=3,4"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# the first of 2 jobs\n")
    values = OmegaConf.create(shown)
    assert values.nodes == 3 and "train" in values and "hydra" not in values


@pytest.mark.parametrize("value", ["null", "[1]", "{a:1}"])
def test_a_variable_of_an_arm_that_is_no_text_is_refused(value: str) -> None:
    """The allocator would get it as Python writes it: None, True."""
    with pytest.raises(ConfigError, match=r"allocator.env.X=\S.* is no text: put quotation marks around it"):
        compose.jobs_of(["model=tiny", "+allocator=glibc", f"+allocator.env.X={value}"])


def test_numbers_and_quoted_words_are_an_arm_s_variables() -> None:
    words = ["+allocator.env.A=1", "+allocator.env.B=0.5", "+allocator.env.C='true'", "+allocator.env.D=-1"]
    _, (job,) = compose.jobs_of(["model=tiny", "+allocator=glibc", *words])
    assert dict(job.allocator.env) == {"A": "1", "B": "0.5", "C": "true", "D": "-1"}


TYPED = ["2024_05", "1e5", "0x10", "on", "null", "1_000", "01", "true", "1.50", "1.", "inf", "NaN", "False"]


@pytest.mark.parametrize("value", TYPED)
def test_a_key_that_holds_text_holds_what_was_typed(value: str) -> None:
    words = [f"study={value}", f"sweep.reference={value}", f"model.name={value}"]
    if value != "null":  # which means that there is none
        words += [f"+allocator.env.X={value}", f"launch.interface={value}"]
    study, (job,) = compose.jobs_of(["model=tiny", "+allocator=glibc", *words])
    assert (study.name, study.reference, job.model.name) == (value, value, value)
    if value != "null":
        assert (job.allocator.env["X"], job.launch.interface) == (value, value)


def test_a_key_that_holds_text_is_swept_over_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, jobs = compose.jobs_of(["model=tiny", "launch.interface=null,1_0,eth0"])
    assert [job.launch.interface for job in jobs] == [None, "1_0", "eth0"]
    (tmp_path / "allocator").mkdir()
    (tmp_path / "allocator" / "1_0.yaml").write_text("name: '1_0'\nenv: {A: 4}\n")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path))
    _, jobs = compose.jobs_of(["model=tiny", "allocator=1_0,glibc"])
    assert [job.allocator.name for job in jobs] == ["1_0", "glibc"] and jobs[0].allocator.env == {"A": "4"}


# A divided model


@pytest.mark.parametrize(
    "tensor, vocabulary", [(1, 50304), (2, 50432), (3, 50304), (4, 50688), (6, 50688), (12, 50688)]
)
def test_the_vocabulary_is_padded_to_128_for_each_slice(compose: Any, tensor: int, vocabulary: int) -> None:
    _, (job,) = compose(f"nodes={tensor}", f"parallel.tensor={tensor}")
    assert job.model.padded_vocabulary == vocabulary


@pytest.mark.parametrize(
    "words, said",
    [
        ("nodes=2 parallel.tensor=5", "parallel.tensor=5 must be a divisor of model.heads=12."),
        ("nodes=2 parallel.pipeline=24", "parallel.pipeline=24 must be a divisor of model.layers=12."),
        ("nodes=6 parallel.pipeline=4", "parallel.pipeline=4 must be such that parallel.tensor * parallel.pipeline = 1 * 4 divides"),
        ("nodes=8 parallel.tensor=2 train.global_batch_size=6", "must be a multiple of train.micro_batch_size * replicas = 1 * 4"),
        ("nodes=4 parallel.pipeline=4", "measure.iteration_micro_batches=5 must be at least 7: "),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_refused(refused: Any, words: str, said: str) -> None:
    assert said in refused(*words.split())


@pytest.mark.parametrize("split", ["parallel.tensor=2", "parallel.pipeline=2"])
def test_a_model_of_1_3_billion_fits_divided_or_not_at_all(compose: Any, split: str) -> None:
    _, (job,) = compose("model=gpt1.3b", "nodes=2", split)
    assert 12 * GIB < job.rank_bytes < 14 * GIB, "a rank of the whole model needs 27"
    check_fits(job, 2, 2, 28 * GIB)
    check_fits(job, 1, 2, 14 * GIB)  # on each of two hosts
    with pytest.raises(ConfigError, match="model=gpt1.3b with 2 ranks on this host needs about 2[5-7]"):
        check_fits(job, 2, 2, 23 * GIB)


def test_a_model_of_13_billion_composes_for_a_cluster(compose: Any) -> None:
    words = "model=gpt13b nodes=32 parallel.tensor=4 parallel.pipeline=4 measure.iteration_micro_batches=8"
    _, (job,) = compose(*words.split())
    assert job.model.num_parameters == pytest.approx(12.85e9, rel=0.01) and (job.dp, job.num_micro_batches) == (2, 512)
    # 16 bytes a parameter over 16 ranks, and what a stage keeps.
    assert 16 * job.model.num_parameters / 16 < job.rank_bytes < 24 * GIB
    _, (alone,) = compose("model=gpt13b")
    assert alone.rank_bytes > 16 * alone.model.num_parameters
