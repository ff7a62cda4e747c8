import pytest
import torch
from steps import fit, labelled, make_task

from depth_anything_train.losses.silog import SILog
from depth_anything_train.runtime import UserError
from depth_anything_train.tasks.metric import metres

TWO = "[[nyu,0.001,10.0],[kitti,0.001,80.0]]"


def metric_batch(count=2, far=20.0):
    batch = labelled(count)
    depth = 1 + torch.rand(count, 1, 28, 28) * far
    return {**batch, "disparity": (1 / depth).where(batch["valid"], torch.tensor(0.0)), "valid": batch["valid"]}


def routed_task():
    return make_task("tiny_metric", task="metric_routed", **{"model.bins.domains": TWO, "model.max_depth_m": 80.0})


def test_metres__the_sky_has_none():
    disparity = torch.tensor([[0.5, 0.0, 0.25, float("nan")]])
    depth, known = metres(disparity, torch.tensor([[True, True, False, False]]))
    assert known.tolist() == [[True, False, False, False]]
    assert depth.tolist() == [[2.0, 1.0, 1.0, 1.0]]


def test_metric__loss_is_that_of_the_prediction_in_metres():
    task, batch = make_task("tiny_metric"), metric_batch()
    with torch.no_grad():
        depth = task.model(task.to_model(batch["image"]))
    expected = SILog()(depth, 1 / batch["disparity"], batch["valid"])
    assert fit(task, {"labelled": batch})["train/loss/depth"] == pytest.approx(expected.item(), rel=1e-5)


def test_metric__learns_one_batch():
    task, batch = make_task("tiny_metric", **{"optim.lr": 1e-2, "optim.encoder_division": 1.0}), metric_batch()
    ramp = torch.linspace(2, 20, 28).expand(2, 1, 28, 28)
    batch.update(disparity=1 / ramp, valid=torch.ones_like(ramp, dtype=torch.bool))
    batch.update(image=(ramp.expand(2, 3, 28, 28) * 12).to(torch.uint8))
    task.steps = 30
    first = fit(task, {"labelled": batch})["train/loss"]
    assert fit(task, {"labelled": batch}, steps=30)["train/loss"] < first / 2


def test_metric__a_relative_model_is_refused():
    with pytest.raises(UserError, match="model.kind=metric"):
        make_task("tiny_metric", **{"model.kind": "relative", "model.max_depth_m": "null", "model.bins": "null"})


def test_disparity__of_a_metric_model_is_in_1_per_metre():
    task, batch = make_task("tiny_metric"), metric_batch()
    with torch.no_grad():
        product = task.disparity(batch["image"]) * task.model(task.to_model(batch["image"]))
    torch.testing.assert_close(product, torch.ones_like(product))


def test_routed__every_domain_is_judged_by_its_own_head_and_the_router_learns():
    task = routed_task()
    batch = {"nyu": metric_batch(2, 8.0), "kitti": metric_batch(1, 60.0)}
    image = task.to_model(torch.cat([batch["nyu"]["image"], batch["kitti"]["image"]]))
    with torch.no_grad():
        depth, scores = task.model.route(image, torch.tensor([0, 0, 1]))
    found = fit(task, batch)
    for name, part in (("nyu", depth[:2]), ("kitti", depth[2:])):
        expected = SILog()(part, 1 / batch[name]["disparity"], batch[name]["valid"]).item()
        assert found[f"train/loss/{name}"] == pytest.approx(expected, rel=1e-4)
    domain = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 0, 1])).item()
    assert found["train/loss/domain"] == pytest.approx(domain, rel=1e-4)
    # The mean of the losses of a batch of NYU's and one of KITTI's, as the published code has it.
    alternating = [found[f"train/loss/{name}"] + 100 * found["train/loss/domain"] for name in ("nyu", "kitti")]
    assert found["train/loss"] == pytest.approx(sum(alternating) / 2, rel=1e-5)


def test_routed__one_head_is_refused():
    with pytest.raises(UserError, match="several model.bins.domains"):
        make_task("tiny_metric", task="metric_routed")


def test_routed_recipe__has_a_stream_for_each_head():
    from depth_anything_train.composition import compose

    cfg = compose("train", ["experiment=metric_nyu_kitti", "out=x", "nyu=[a]", "kitti=[b]"])
    names = [domain[0] for domain in cfg.model.bins.domains]
    assert names == list(cfg.data.sources) == list(cfg.data.batch) == [n for n in cfg.task.weights if n != "domain"]
    assert sum(cfg.data.batch.values()) == 16
