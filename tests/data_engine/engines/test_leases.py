import multiprocessing
import os
import signal
import threading
import time

import pytest
from killing import wait_until

from data_engine.engines.leases import LeaseLost, Leases, _take_away


def test_take__only_one_can_hold_a_lease(tmp_path):
    leases = [Leases(tmp_path / "leases", interval=1, expiry=3) for _ in range(20)]
    taken = []
    start = threading.Barrier(len(leases))

    def take(mine):
        start.wait()
        taken.append(mine.take("shard"))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in taken) == 1


def test_take__a_lease_that_was_left_is_free_again(tmp_path):
    leases = Leases(tmp_path / "leases", interval=1, expiry=3)
    for _ in range(2):
        with leases.take("shard"):
            assert Leases(tmp_path / "leases", interval=1, expiry=3).take("shard") is None
    leases.clear()
    assert not list(tmp_path.iterdir())


def test_take__a_living_holder_keeps_its_lease_whatever_the_clocks_say(tmp_path):
    mine, other = (Leases(tmp_path / "leases", interval=0.02, expiry=1.5) for _ in range(2))
    with mine.take("shard") as lease:
        end = time.monotonic() + 3
        day = 24 * 3600
        while time.monotonic() < end:
            for shift in (-day, day):
                os.utime(lease.path, (time.time() + shift,) * 2)
                assert other.take("shard") is None
            time.sleep(0.02)


def test_take__of_a_folder_that_another_task_has_cleared_is_tried_again(tmp_path):
    mine = Leases(tmp_path / "leases", interval=1, expiry=3)
    Leases(tmp_path / "leases", interval=1, expiry=3).clear()
    assert mine.take("shard") is None
    with mine.take("shard"):
        assert mine.held("shard")


def hold(folder):
    with Leases(folder, interval=0.02, expiry=1).take("shard"):
        time.sleep(60)


def test_take__a_lease_of_the_dead_is_taken_over_after_expiry(tmp_path):
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "leases",))
    holder.start()
    wait_until(lambda: list(tmp_path.glob("leases/*")))
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    mine = Leases(tmp_path / "leases", interval=0.02, expiry=0.3)
    start = time.monotonic()
    assert mine.take("shard") is None  # it was just seen for the first time
    wait_until(lambda: mine.take("shard"))
    assert time.monotonic() - start >= 0.3


def test_leave__a_lease_that_was_taken_over_stays_with_its_new_holder(tmp_path):
    mine, other = (Leases(tmp_path / "leases", interval=0.02, expiry=0.1) for _ in range(2))
    with mine.take("shard") as slept:
        slept._left.set()  # as a process that is stopped: no more beats
        slept._thread.join()
        assert other.take("shard") is None
        time.sleep(0.2)
        taken = other.take("shard")
        assert taken is not None
    assert taken.path.read_bytes().startswith(taken.token)


def test_take__of_two_that_take_over_a_lease_the_slower_leaves_it_to_the_faster(tmp_path):
    path = tmp_path / "shard.lease"
    path.write_bytes(b"of a dead process")
    assert _take_away(path, b"of a dead process")
    faster = Leases(tmp_path, interval=1, expiry=3).take("shard")
    assert not _take_away(path, b"of a dead process")  # what the slower one saw
    assert path.read_bytes().startswith(faster.token)
    assert list(tmp_path.iterdir()) == [path]


def test_check__a_lease_that_was_taken_over_is_noticed(tmp_path):
    lease = Leases(tmp_path, interval=1, expiry=3).take("shard")
    lease.check()
    lease.path.unlink()
    lease.check()  # nobody holds it
    Leases(tmp_path, interval=1, expiry=3).take("shard")
    with pytest.raises(LeaseLost):
        lease.check()


def test_take__a_lease_that_cannot_be_read_is_not_taken(tmp_path):
    (tmp_path / "shard.lease").mkdir()
    assert Leases(tmp_path, interval=1, expiry=3).take("shard") is None


def test_beat__goes_on_after_an_error_of_the_file_system(tmp_path):
    with Leases(tmp_path, interval=0.02, expiry=1).take("shard") as lease:
        works, fails = os.dup(lease._descriptor), os.open(os.devnull, os.O_RDONLY)
        os.dup2(fails, lease._descriptor)
        time.sleep(0.1)
        os.dup2(works, lease._descriptor)
        before = lease.path.read_bytes()
        wait_until(lambda: lease.path.read_bytes() != before, seconds=5)
        os.close(works)
        os.close(fails)


@pytest.fixture(autouse=True)
def end_threads():
    """Leases that a test leaves open have no thread."""
    before = set(threading.enumerate())  # of earlier tests, which may end meanwhile
    yield
    assert set(threading.enumerate()) <= before
