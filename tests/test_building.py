import pytest
from omegaconf import OmegaConf
from torch import nn

from depth_anything_train.building import build
from depth_anything_train.runtime import UserError

SILOG = {"_target_": "depth_anything_train.losses.silog.SILog"}


def test_build__refuses_targets_that_are_not_on_the_list():
    with pytest.raises(UserError, match="os.system"):
        build(OmegaConf.create({"inner": [{"_target_": "os.system", "command": "true"}]}))


@pytest.mark.parametrize(
    "target", ["runtime.subprocess.getoutput", "runtime.subprocess.Popen", "files.write_bytes", "command.hydra.main"]
)
def test_build__refuses_what_modules_on_the_list_import_and_functions_that_act(target):
    with pytest.raises(UserError, match=f"may build classes of .* names _target_: depth_anything_train.{target}"):
        build(OmegaConf.create({"_target_": f"depth_anything_train.{target}"}))


def test_build__a_target_that_does_not_exist_is_named():
    for target in ("depth_anything_train.losses.nothing.Loss", "depth_anything_train.losses.silog.Nothing"):
        with pytest.raises(UserError, match=f"names _target_: {target}, which does not exist"):
            build(OmegaConf.create({"_target_": target}))


def test_build__makes_what_is_on_the_list():
    assert build(OmegaConf.create(SILOG | {"keep": 0.5})).keep == 0.5


def test_build__a_mistake_inside_a_constructor_comes_out_as_it_is(monkeypatch):
    """Who adds a loss needs its traceback; a sentence is for settings."""

    class Broken(nn.Module):
        def __init__(self, size=1):
            len(size)

    Broken.__module__ = "depth_anything_train.losses.silog"
    monkeypatch.setattr("depth_anything_train.losses.silog.SILog", Broken)
    for node, arguments in ((SILOG, {"size": 2}), ({"inner": SILOG}, {})):
        with pytest.raises(TypeError, match="has no len") as caught:
            build(OmegaConf.create(node), **arguments)
        assert caught.traceback[-1].name == "__init__"


def test_build__settings_that_do_not_fit_are_one_sentence():
    for node in (SILOG | {"foo": 2}, {"inner": SILOG | {"foo": 2}}):
        with pytest.raises(UserError, match="silog.SILog do not fit: .*unexpected keyword argument 'foo'"):
            build(OmegaConf.create(node))
    passed_on = {"_target_": "depth_anything_train.tasks.metric.MetricTask", "depth": SILOG, "weights": {}, "foo": 2}
    with pytest.raises(UserError, match="MetricTask do not fit: .*unexpected keyword argument 'foo'"):
        build(OmegaConf.create(passed_on), model=None, optim=None, steps=1)
    with pytest.raises(UserError, match="Trainer do not fit: .*accelerator"):
        build(OmegaConf.create({"_target_": "pytorch_lightning.Trainer", "accelerator": "abacus"}), logger=False)
