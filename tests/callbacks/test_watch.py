import pytest
import torch

from depth_anything_train.callbacks.watch import mean_by_source


def test_mean_by_source__is_over_the_images_of_each_that_have_a_loss():
    losses = torch.tensor([1.0, 2.0, 4.0, float("nan"), float("nan")])
    assert mean_by_source(losses, ["a", "b", "a", "b", "c"]) == {"a": pytest.approx(2.5), "b": pytest.approx(2.0)}
