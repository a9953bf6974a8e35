import asyncio
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfgrpo.policy.retry import MAX_PAUSE_S, RATE_LIMITED_TRIES, Pacer, Retries
from tfgrpo.policy.wire import Failure, Secret, failure_of_status, retry_after_s

RATE = Failure(kind="rate", words="slow", status=429)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry-after": "2"}, 2.0), ({"retry-after": " 1.5 "}, 1.5),
     ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
     ({}, None), ({"retry-after": "soon"}, None), ({"retry-after": formatdate(0, usegmt=True)}, 0.0)],
)  # fmt: skip
def test_retry_after(headers, seconds):
    assert retry_after_s(headers) == seconds


def test_retry_after_as_a_date():
    assert 8 < retry_after_s({"retry-after": formatdate(time.time() + 10, usegmt=True)}) <= 10


NAMES = st.sampled_from(["error", "message", "code", "param", "detail"])
BODIES = st.recursive(
    st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(NAMES, x), max_leaves=8
)


@given(status=st.integers(400, 599), body=BODIES)
def test_any_error_body_is_a_failure(status, body):
    failure = failure_of_status(status, {}, "raw", body)
    assert failure.status == status and isinstance(failure.words, str)
    assert failure.retried == (status in (408, 409, 425, 429) or (status >= 500 and status != 501))


def test_a_secret_hides():
    secret = Secret("sk-0123456789")
    assert "sk-0" not in repr(secret) + str(secret) + f"{secret}"
    assert secret.redact("a sk-0123456789 b") == "a [key] b"
    assert Secret("EMPTY").redact("EMPTY") == "EMPTY"


async def run(outcomes, **options):
    outcomes = iter(outcomes)

    async def send():
        return next(outcomes)

    return await Retries(backoff_s=0.0, **options).run(send)


async def test_counts():
    broken = Failure(kind="server", words="x", status=500)
    assert await run([broken, broken, "reply"], max_retries=2) == ("reply", 3)
    assert await run([broken] * 9, max_retries=2) == (broken, 3)
    assert await run([broken] * 9, max_retries=0) == (broken, 1)
    assert await run([RATE] * 99, max_retries=2) == (RATE, RATE_LIMITED_TRIES * 2 + 1)
    refused = Failure(kind="request", words="x", status=400)
    assert await run([refused] * 2, max_retries=2) == (refused, 1)
    away = Failure(kind="connect", words="x")
    assert await run([away] * 99, max_retries=50) == (away, 3)
    assert await run([broken, away, away, away, "reply"], max_retries=50) == (away, 3)


async def test_the_brake_is_cut_once_for_one_jam_and_recovers():
    pacer = Pacer()
    starts = [await pacer.enter() for _ in range(10)]
    assert pacer.slow_down(starts[0], None) and pacer.limit == 7
    assert not pacer.slow_down(starts[1], None) and pacer.limit == 7
    waiting = [asyncio.create_task(pacer.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    for _ in range(5):
        pacer.leave()
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, True, False]
    for _ in range(8):
        pacer.speed_up()
    await asyncio.sleep(0)
    assert waiting[2].done() and 8.0 < pacer.limit < 8.1


async def test_a_cancelled_waiter_leaves_its_turn_to_the_next():
    pacer = Pacer()
    started = await pacer.enter()
    pacer.slow_down(started, None)
    assert pacer.limit == 1
    first, second = (asyncio.create_task(pacer.enter()) for _ in range(2))
    await asyncio.sleep(0)
    pacer.leave()
    first.cancel()
    await asyncio.sleep(0.001)
    assert second.done() and pacer.in_flight == 1


async def test_a_pause_is_bounded():
    pacer = Pacer()
    pacer.slow_down(await pacer.enter(), 86_400.0)
    assert pacer.resume_at - time.monotonic() <= MAX_PAUSE_S
