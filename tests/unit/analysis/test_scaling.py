from __future__ import annotations

import numpy as np
import pytest

from bench.analysis import scaling
from bench.analysis.published import read_published

NODES = [1, 2, 4, 8, 16]


def curve(n: int, work: float = 1000.0, company: float = 200.0, fixed: float = 5.0) -> float:
    return work / n + (company / n if n > 1 else 0.0) + fixed


def noisy(rng: np.random.Generator, spread: float, repeats: int = 3) -> scaling.Points:
    return [(n, curve(n) * float(1 + spread * rng.standard_normal())) for n in NODES for _ in range(repeats)]


def test_recovers_the_coefficients_of_a_curve_of_its_own_shape():
    fitted = scaling.fit({"glibc": [(n, curve(n)) for n in NODES]})["glibc"]
    assert fitted.work_seconds == pytest.approx(1000)
    assert fitted.company_seconds == pytest.approx(200)
    assert fitted.fixed_seconds == pytest.approx(5)
    (at_64,) = scaling.predict(fitted, [64])
    assert at_64.seconds == pytest.approx(curve(64))
    assert at_64.low == pytest.approx(at_64.high, rel=1e-6)  # no scatter, no doubt


def test_coefficients_are_never_negative():
    superlinear = [(n, 1000.0 / n**1.2) for n in NODES]
    fitted = scaling.fit({"a": superlinear})["a"]
    assert min(fitted.work_seconds, fitted.company_seconds, fitted.fixed_seconds) >= 0
    assert all(p.low > 0 for p in scaling.predict(fitted, [32, 64, 1024]))


def test_interval_holds_a_new_run_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials, inside = 400, 0
    for _ in range(trials):
        fitted = scaling.fit({"a": noisy(rng, 0.02)})["a"]
        (at_64,) = scaling.predict(fitted, [64], confidence=0.9)
        inside += at_64.low <= curve(64) * (1 + 0.02 * rng.standard_normal()) <= at_64.high
    assert 0.85 < inside / trials < 0.96


def test_interval_widens_with_distance_and_with_confidence():
    fitted = scaling.fit({"a": noisy(np.random.default_rng(1), 0.03)})["a"]
    near, far = scaling.predict(fitted, [16, 256])
    assert near.high / near.low < far.high / far.low
    (sure,) = scaling.predict(fitted, [16], confidence=0.99)
    assert sure.low < near.low < near.seconds < near.high < sure.high


def test_scatter_is_pooled_over_the_arms():
    rng = np.random.default_rng(2)
    quiet, loud = [(n, curve(n)) for n in NODES], noisy(rng, 0.05, repeats=1)
    fits = scaling.fit({"quiet": quiet, "loud": loud})
    alone = scaling.fit({"loud": loud})["loud"]
    assert fits["quiet"].relative_error == fits["loud"].relative_error > 0
    assert fits["quiet"].degrees_of_freedom == 2 * alone.degrees_of_freedom


def test_without_one_node_it_predicts_more_nodes_but_not_one():
    fitted = scaling.fit({"a": [(n, curve(n)) for n in NODES if n > 1]})["a"]
    assert scaling.predict(fitted, [64])[0].seconds == pytest.approx(curve(64))
    with pytest.raises(ValueError, match="nodes=1 was not measured"):
        scaling.predict(fitted, [1])


@pytest.mark.parametrize(
    "points, words",
    [
        ([(1, 10.0), (2, 5.0)], "at least 3 different node counts"),
        ([(1, 10.0), (2, 5.0), (2, 5.1), (1, 9.9)], "at least 3 different node counts"),
        ([(1, 10.0), (2, 5.0), (4, 2.5)], "more points than its three coefficients"),
        ([(1, 10.0), (2, float("nan")), (4, 2.5), (8, 1.0)], "seconds > 0"),
        ([(0, 10.0), (2, 5.0), (4, 2.5), (8, 1.0)], "nodes >= 1"),
    ],
)
def test_too_little_to_fit_is_one_sentence(points, words):
    with pytest.raises(ValueError, match=words) as error:
        scaling.fit({"glibc": points})
    assert "\n" not in str(error.value)


def test_published_rows_fitted_on_16_nodes_predict_32_and_64():
    """The honesty check: how far off, in per cent, is what the report prints. These change only with the model."""
    checks = {(c.allocator, c.prediction.nodes): c for c in scaling.check_published(fitted_up_to=16)}
    assert set(checks) == {("glibc", 32), ("glibc", 64), ("tcmalloc", 32), ("tcmalloc", 64)}
    assert checks["glibc", 32].measured_seconds == 60.2
    errors_percent = {key: round(100 * check.error, 1) for key, check in checks.items()}
    assert errors_percent == {
        ("glibc", 32): 0.3,
        ("glibc", 64): 8.8,
        ("tcmalloc", 32): -3.1,
        ("tcmalloc", 64): 5.6,
    }
    assert all(check.inside for check in checks.values())


def test_published_rows_fitted_on_8_nodes_are_further_off_at_64():
    near = {c.allocator: abs(c.error) for c in scaling.check_published(16) if c.prediction.nodes == 64}
    far = {c.allocator: abs(c.error) for c in scaling.check_published(8) if c.prediction.nodes == 64}
    assert far["glibc"] > near["glibc"]


def test_published_step_from_one_node_to_two_is_glibcs_alone():
    fits = scaling.fit(read_published())
    assert fits["glibc"].company_seconds / fits["glibc"].work_seconds > 0.2
    assert fits["tcmalloc"].company_seconds / fits["tcmalloc"].work_seconds < 0.05
