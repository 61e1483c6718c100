from __future__ import annotations

import errno

from cache.local.health import DiskHealth


def test_a_disk_that_is_not_well_is_tried_soon_and_ever_more_seldom() -> None:
    clock = [1000.0]
    disk = DiskHealth(off=False, now=lambda: clock[0], wall=lambda: clock[0])

    def pause() -> float:
        """Seconds until it may be tried, which fails again, for several files at once."""
        begun = clock[0]
        while not disk.may_write():
            clock[0] += 0.5
        for _ in range(3):
            disk.failed(OSError(errno.EROFS, "another process keeps the copies"))
            assert not disk.may_write()
        return clock[0] - begun

    assert [pause() for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    clock[0] += 60
    assert disk.may_write()
    disk.well()
    assert [pause() for _ in range(3)] == [0, 1, 2]
