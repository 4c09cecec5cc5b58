"""When two hosts are alike, and which difference is named first."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bench.host import likeness


def test_fingerprint_ignores_what_times_do_not_depend_on(vm: dict[str, Any]) -> None:
    twin = copy.deepcopy(vm)
    twin["hostname"] = "vm-2"
    twin["cpu"].update(microcode="0x2", ghz=2.61, affinity="0")
    twin["memory"].update(total_bytes=vm["memory"]["total_bytes"] - (50 << 20), available_bytes=1)
    twin["image"] = vm["image"]
    assert likeness.fingerprint(twin) == likeness.fingerprint(vm)
    assert likeness.differences(vm, twin) == [("cpu.microcode", "0x1", "0x2")]


@pytest.mark.parametrize(
    "group, changed, named",
    [
        ("cpu", {"model": "another"}, "cpu.model"),
        ("memory", {"thp": "always"}, "memory.thp"),
        ("memory", {"page_bytes": 65536}, "memory.page_bytes"),
        ("memory", {"total_bytes": 32 << 30}, "memory.total_bytes"),
        ("system", {"kernel": "5.4"}, "system.kernel"),
        ("system", {"mitigations": {"meltdown": "Vulnerable", "retbleed": "Not affected"}}, "system.mitigations.meltdown"),
        ("packages", {"torch": "1.10.2+cpu"}, "packages.torch"),
        (None, {"image": {"content_sha256": "c0ffee"}}, "image.content_sha256"),
    ],
)  # fmt: skip
def test_fingerprint_changes_with_what_times_depend_on(
    vm: dict[str, Any], group: str | None, changed: dict[str, Any], named: str
) -> None:
    other = copy.deepcopy(vm)
    (other[group] if group else other).update(changed)
    assert likeness.fingerprint(other) != likeness.fingerprint(vm)
    assert [name for name, _, _ in likeness.differences(vm, other)] == [named]


def test_weighty_differences_come_first(vm: dict[str, Any]) -> None:
    other = copy.deepcopy(vm)
    other["cpu"]["model"], other["packages"]["numpy"], other["python"]["version"] = "another", "0", "3.8.0"
    names = [name for name, _, _ in likeness.differences(vm, other)]
    assert names == ["cpu.model", "python.version", "packages.numpy"]


def test_same_image_in_docker_and_apptainer_is_the_same(vm: dict[str, Any]) -> None:
    docker = {**vm, "image": {"content_sha256": "c0ffee", "docker_digest": "sha256:1"}}
    sif = {**vm, "image": {"content_sha256": "c0ffee", "sif": "/a.sif", "sif_sha256": "2"}}
    assert likeness.fingerprint(docker) == likeness.fingerprint(sif)
