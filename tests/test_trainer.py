import pytest

from depth_anything_train.runtime import UserError
from depth_anything_train.trainer import choose_precision


@pytest.mark.parametrize("wanted", ["16-mixed", "fp16", "bf16"])
def test_choose_precision__refuses_what_training_cannot_do(wanted):
    with pytest.raises(UserError, match=f"auto, bf16-mixed, 32-true, got '{wanted}'"):
        choose_precision(wanted)
