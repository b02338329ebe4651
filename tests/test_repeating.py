"""Work that repeats: at its pace, at once when woken, and no more once stopped."""

import threading

from bento.repeating import Repeating


class Work:
    """Done so many times; ``wait`` returns once it was done at least ``times``."""

    def __init__(self):
        self.done, self._more = 0, threading.Condition()

    def __call__(self):
        with self._more:
            self.done += 1
            self._more.notify_all()

    def wait(self, times, patience_s=30):
        with self._more:
            return self._more.wait_for(lambda: self.done >= times, patience_s)


def test_it_goes_on_until_it_is_stopped():
    work = Work()
    repeating = Repeating("work", work, 0.001)
    repeating.start()
    assert work.wait(3)
    repeating.stop()
    done = work.done
    assert (repeating.runs, repeating.stopped) == (False, True)
    assert work.done == done


def test_woken_it_works_at_once():
    work = Work()
    repeating = Repeating("work", work, 3600)
    repeating.start()
    try:
        for times in (1, 2):
            repeating.wake()
            assert work.wait(times)
    finally:
        repeating.stop()


def test_to_be_woken_often_does_not_put_off_what_is_due():
    work = Work()
    repeating = Repeating("work", work, 0.5)
    repeating.start()
    try:
        for times in range(1, 201):
            repeating.wake()
            assert work.wait(times)
        assert work.wait(work.done + 1, patience_s=10)
    finally:
        repeating.stop()


def test_one_that_was_never_started_can_be_stopped():
    repeating = Repeating("work", Work(), 1)
    repeating.stop()
    assert not repeating.runs
