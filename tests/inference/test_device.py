import pytest
import torch

from depth_anything_train.inference.device import choose_device
from depth_anything_train.runtime import UserError


def test_choose_device__takes_a_name_a_device_and_auto():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    assert choose_device("auto") == choose_device(None)


@pytest.mark.parametrize("wanted", ["abacus", "cuda:99"])
def test_choose_device__says_what_cannot_be_used(wanted):
    with pytest.raises(UserError, match=f"{wanted} cannot be used"):
        choose_device(wanted)
