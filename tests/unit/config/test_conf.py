"""Every file under conf/ is whole, is what its name says, and composes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from omegaconf import OmegaConf

from bench.config.compose import values_of
from bench.host.foreign import foreign_variables
from bench.job.job import Allocator, Job, Measure, Model, to_dict
from bench.paths import CONF


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert found
    return found


def load(group: str, name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))  # type: ignore[return-value]


def keys(schema: type) -> set[str]:
    return {field.name for field in dataclasses.fields(schema)}


@pytest.mark.parametrize("name", names("allocator"))
def test_an_arm_defines_every_key(name: str) -> None:
    """A key left out would be the one of the inline default, or of whatever was composed before."""
    given = load("allocator", name)
    # No default has `instead`, so that there is none to be left over.
    assert {*given, "instead"} == keys(Allocator) and given["name"] == name
    assert given["shows"] and (given["library"] is None) == (given["package"] is None)
    assert all(isinstance(value, str) for value in given["env"].values())


def test_both_spellings_compose_the_same_jobs(compose: Callable) -> None:
    plus, plain = (compose(f"{spelling}=tcmalloc,glibc_tuned") for spelling in ("+allocator", "allocator"))
    assert plus == plain
    assert [job.allocator for job in plain[1]] == [
        Allocator(**load("allocator", n)) for n in ("tcmalloc", "glibc_tuned")
    ]


@pytest.mark.parametrize("name", names("allocator"))
def test_an_arm_sets_only_what_is_dropped_from_the_host(name: str) -> None:
    """What an arm can set must not come from outside under another arm."""
    env = load("allocator", name)["env"]
    assert foreign_variables(env) == sorted(env)


PARAMETERS = {"gpt124m": 124_475_904, "gpt350m": None, "gpt1.3b": None, "gpt13b": None, "tiny": None}


@pytest.mark.parametrize("name", names("model"))
def test_a_model_defines_every_key_and_has_its_parameters(name: str, compose: Callable) -> None:
    given = load("model", name)
    assert set(given) == keys(Model) and given["name"] == name
    (job,) = compose(f"model={name}", "train.global_batch_size=4")[1]
    model = job.model
    assert model == Model(**given)
    h = model.hidden
    # weight and bias of each: two norms, query-key-value, projection, up, down
    layer = [h, h, h, h, 3 * h * h, 3 * h, h * h, h, 4 * h * h, 4 * h, 4 * h * h, h]
    assert model.num_parameters == model.padded_vocabulary * h + model.sequence * h + model.layers * sum(layer) + 2 * h
    assert PARAMETERS.get(name) in (None, model.num_parameters)
    assert h % model.heads == 0 and model.padded_vocabulary % 128 == 0 and model.padded_vocabulary >= model.vocabulary


@pytest.mark.parametrize("name", names("measure"))
def test_a_way_of_measuring_defines_every_key(name: str, compose: Callable) -> None:
    given = load("measure", name)
    assert set(given) >= keys(Measure) and given["mode"] == name
    (job,) = compose(f"measure={name}")[1]
    assert job.measure.mode == name


HERE = [
    arm for arm in names("allocator") if arm not in ("fugaku_pool", "glibc_torch_thp", "rpmalloc")
]  # another machine's, another PyTorch's, another release's
JOBS = {"smoke": 1, "published": 7 * 2}


@pytest.mark.parametrize("name", [name for name in names("experiment") if name != "allocators"])
def test_an_experiment_composes_the_jobs_and_arms_that_it_names(name: str, compose: Callable) -> None:
    study, jobs = compose(f"experiment={name}", *(["repeat=0"] if name == "published" else []))
    assert study.name == name and len(jobs) == len({job.content_hash for job in jobs}) == JOBS.get(name, len(jobs))
    if name != "smoke":
        assert {job.allocator.name for job in jobs} == {"glibc", "tcmalloc"} and len(jobs) % 2 == 0
    if name == "published":
        assert {job.nodes for job in jobs} == {2**i for i in range(7)}
        assert {(j.measure.mode, j.train.global_batch_size, j.model.name) for j in jobs} == {("full", 1024, "gpt124m")}


def test_the_experiment_of_all_allocators_names_each() -> None:
    assert sorted(values_of(["experiment=allocators"], "allocator")) == HERE


def test_config_yaml_says_the_defaults_of_the_schema(compose: Callable) -> None:
    """One default in two places must not become two defaults."""
    study, (job,) = compose()
    measure = load("measure", "sampled")
    assert study.name == "main" and study.reference == "glibc" and study.shuffle_arms is True
    expected = to_dict(Job())
    expected["allocator"].update(load("allocator", "glibc"))
    expected["measure"] = {key: measure[key] for key in expected["measure"]}
    assert to_dict(job) == expected
    assert expected["measure"] == to_dict(Job())["measure"]
