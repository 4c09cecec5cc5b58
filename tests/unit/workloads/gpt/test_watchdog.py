from __future__ import annotations

import pytest

from bench.job.job import Job, Launch
from bench.workloads.gpt.watchdog import TICK_SECONDS, Watchdog, start_seconds

EVENT = {"event": "micro_batch"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def wait(dog: Watchdog, clock: Clock, seconds: float) -> str | None:
    """Look every few seconds, as run_ranks does; the first sentence, if any."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += min(TICK_SECONDS, end - clock.now)
        said = dog.check()
        if said:
            return said
    return None


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_pace_of_the_job_decides(clock: Clock) -> None:
    dog = Watchdog(Job(), clock)
    for _ in range(4):
        dog.note_event(0, EVENT)
        assert wait(dog, clock, 30.0) is None
    assert wait(dog, clock, 20 * 30.0 - 40.0) is None
    assert "said nothing for" in str(wait(dog, clock, 60.0))


def test_a_fast_job_has_a_minute(clock: Clock) -> None:
    dog = Watchdog(Job(), clock)
    for _ in range(4):
        dog.note_event(0, EVENT)
        clock.now += 0.1
    assert wait(dog, clock, 55.0) is None and "longer than the time of 20" in str(wait(dog, clock, 20.0))


def test_the_start_of_a_large_model_may_take_longer(clock: Clock) -> None:
    assert start_seconds(Job()) == pytest.approx(300 + 8 * Job().model.num_parameters * 1024 / 5e9)
    dog = Watchdog(Job(), clock)
    dog.note_event(0, {"event": "proved"})
    assert wait(dog, clock, start_seconds(Job()) - 10) is None and "longest start" in str(wait(dog, clock, 20.0))


def test_a_first_micro_batch_of_70_seconds_does_not_end_the_second(clock: Clock) -> None:
    dog = Watchdog(Job(), clock)
    dog.note_event(0, {"event": "connected"})
    for _ in range(3):
        assert wait(dog, clock, 70.0) is None
        dog.note_event(0, EVENT)
    assert wait(dog, clock, 20 * 70.0 - 10) is None and "20 micro-batches" in str(wait(dog, clock, 20.0))


def test_the_pace_of_one_rank_does_not_end_the_first_micro_batch_of_another(clock: Clock) -> None:
    dog = Watchdog(Job(), clock)
    for rank in (0, 1):
        dog.note_event(rank, {"event": "connected"})
    for _ in range(2):
        assert wait(dog, clock, 1.0) is None
        dog.note_event(0, EVENT)
    assert wait(dog, clock, 200.0) is None, "rank 1 runs its first one"


def test_one_rank_that_speaks_keeps_all_alive(clock: Clock) -> None:
    """The others may be waiting for it in a collective, for hours in full mode."""
    dog = Watchdog(Job(), clock)
    for rank in (0, 1):
        dog.note_event(rank, EVENT)
    for _ in range(50):
        assert wait(dog, clock, 10.0) is None
        dog.note_event(0, EVENT)
    for _ in range(50):
        assert wait(dog, clock, 10.0) is None
        dog.note_turns({2: 7})
    assert dog.behind() == [1]


def test_a_driver_that_was_stopped_itself_does_not_count_that_time(clock: Clock) -> None:
    dog = Watchdog(Job(), clock)
    for _ in range(2):
        dog.note_event(0, EVENT)
    clock.now += 100_000.0
    assert dog.check() is None and wait(dog, clock, 40.0) is None


def test_limits_of_the_users_own_take_the_place_of_the_watchdogs(clock: Clock) -> None:
    dog = Watchdog(Job(launch=Launch(silence_seconds=7.0)), clock)
    dog.note_event(0, EVENT)
    assert "launch.silence_seconds" in str(wait(dog, clock, 15.0))
    dog = Watchdog(Job(launch=Launch(job_timeout_seconds=100.0)), clock)
    for _ in range(9):
        dog.note_event(0, EVENT)
        assert wait(dog, clock, 10.0) is None
    dog.note_event(0, EVENT)
    assert wait(dog, clock, 20.0) == "did not end within launch.job_timeout_seconds=100"
