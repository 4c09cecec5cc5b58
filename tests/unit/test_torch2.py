"""The second environment: what is taken from its lock where a wheel of PyTorch's CPU-only build is given, in images and natively."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from bench.paths import CHECKOUT

LOCK = CHECKOUT / "requirements-torch2.lock"


def names(text: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE))


def shell(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], cwd=CHECKOUT, env={**os.environ, **env}, capture_output=True, text=True)


def test_a_cpu_only_wheel_leaves_cuda_out_and_every_hash_in() -> None:
    call = re.search(r"lock_entry 0 '[^']+' \"\$lock\"", (CHECKOUT / "scripts/install.sh").read_text())
    native = re.search(r"^ +(awk '.*' requirements-torch2\.lock) >", (CHECKOUT / "scripts/torch2.sh").read_text(), re.M)
    assert call and native
    functions = (
        """eval "$(sed -n '/^lock_entry()/,/^}/p' scripts/install.sh)"; lock=requirements-torch2.lock; root=.; """
    )
    in_images, natively = shell(functions + call.group()).stdout, shell(native.group(1)).stdout
    assert in_images == natively
    left_out = names(LOCK.read_text()) - names(natively)
    assert {"torch", "triton"} <= left_out and all(re.match("torch$|triton|cuda-|nvidia-", name) for name in left_out)
    assert {"numpy", "sympy", "typing-extensions"} <= names(natively)
    assert natively.count("--hash=sha256:") > len(names(natively))


def test_one_package_of_the_first_lock_is_still_found_alone() -> None:
    functions = """eval "$(sed -n '/^lock_entry()/,/^}/p' scripts/install.sh)"; root=.; """
    assert names(shell(functions + "lock_entry 1 setuptools").stdout) == {"setuptools"}
    assert names((CHECKOUT / "requirements.lock").read_text()) - names(
        shell(functions + "lock_entry 0 torch").stdout
    ) == {"torch"}


@pytest.mark.parametrize(
    "env, code, said",
    [
        ({"TORCH2": ""}, 0, ""),
        ({"TORCH2": "yes"}, 2, "TORCH2 is 1 or left out"),
        ({"TORCH2": "1", "TORCH2_WHEEL": "https://example.org/torch.whl"}, 2, "URL#sha256=DIGEST"),
        ({"TORCH2": "", "TORCH2_WHEEL": "https://example.org/torch.whl#sha256=00"}, 2, "goes with 1"),
    ],
)
def test_the_words_of_the_flavour(env: dict[str, str], code: int, said: str) -> None:
    done = shell("sh scripts/install.sh torch2", **env)
    assert done.returncode == code and said in done.stderr, done.stderr
