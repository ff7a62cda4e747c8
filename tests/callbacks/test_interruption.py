import os
import signal

import pytest

from depth_anything_train.callbacks.interruption import Interruption


def test_interruption__asked_twice_is_a_keyboard_interrupt_whatever_runs():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:  # as Lightning does, which then ends the process without a word
            pytest.fail("somebody inside took it for an end")
    assert signal.getsignal(signal.SIGINT) is before
