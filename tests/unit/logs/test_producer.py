"""The producer's decisions that only an unlucky moment calls for, one step at a time."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.logsteps import Container, Supervisor

from wherry.logs import STDOUT, LogOptions


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Supervisor]:
    container = Container(tmp_path, LogOptions())
    one = container.take_over()
    one.add()
    yield one
    one.kill()
    container.close()


def test_what_was_asked_for_before_a_shutdown_is_done(one: Supervisor) -> None:
    one.pipeline.abandon(one.log)
    one.exchange.is_closing = True
    one.producer.run()
    one.exchange.producer_has_ended = True
    one.consumer.run()
    assert one.done == 1
    assert one.log.finished


def test_a_hang_up_of_an_earlier_pipe_with_the_same_number_ends_nothing(one: Supervisor) -> None:
    assert one.job is not None
    fd = one.job.pipes[0].fd
    one.events = [(fd, select.EPOLLHUP)]
    assert one.reserve()
    assert next(pipe.stream for pipe in one.job.pipes) == STDOUT
    assert fd in one.producer._pipes
