"""What tests of all engines of `qgf sweep` ask of one."""

import time


def all_of(engine, count, seconds=20):
    over, end = [], time.monotonic() + seconds
    while len(over) < count:
        over += engine.ended()
        assert time.monotonic() < end
        time.sleep(0.01)
    return {one.name: code for one, code in over}
