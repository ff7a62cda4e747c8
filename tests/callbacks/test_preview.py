import pytest

from depth_anything_train.callbacks.preview import Preview
from depth_anything_train.runtime import UserError


def test_preview__of_no_images_is_refused_before_the_training(tmp_path):
    with pytest.raises(UserError, match=r"preview\.num_images to be a whole number of at least 1, but got 0"):
        Preview(tmp_path, every_n_steps=2, num_images=0)
