import pytest
import torch
from steps import fit, labelled, make_task

from depth_anything_train.building import build
from depth_anything_train.composition import compose
from depth_anything_train.runtime import UserError
from depth_anything_train.tasks.base import Task


def student_batch():
    unlabelled = labelled(4)
    return {"labelled": labelled(2), "unlabelled": {**unlabelled, "region": torch.rand(4, 1, 28, 28) > 0.3}}


def test_student__total_is_the_average_of_three_named_losses():
    metrics = fit(make_task(), student_batch())
    parts = [metrics[f"train/loss/{name}"] for name in ("labelled", "pseudo", "feature")]
    assert metrics["train/loss"] == pytest.approx(sum(parts) / 3, rel=1e-5)


def test_task__one_weight_changes_no_other():
    """The total is the weighted sum."""
    metrics = fit(make_task(**{"task.weights.pseudo": 0, "task.weights.feature": 0.5}), student_batch())
    parts = {name: metrics[f"train/loss/{name}"] for name in ("labelled", "feature")}
    assert metrics["train/loss"] == pytest.approx(parts["labelled"] / 3 + parts["feature"] / 2, rel=1e-6)


def test_student__without_feature_alignment_the_total_is_the_average_of_the_two_losses_left():
    metrics = fit(make_task(ablation="no_feature_alignment"), student_batch())
    assert "train/loss/feature" not in metrics
    assert metrics["train/loss"] == pytest.approx(
        (metrics["train/loss/labelled"] + metrics["train/loss/pseudo"]) / 2, rel=1e-5
    )


def test_student__nothing_of_an_unreadable_image_enters_the_feature_loss():
    """Neither beside a piece that CutMix brought into it, nor as a piece in its partner."""
    batch = student_batch()
    unlabelled = batch["unlabelled"]
    for name in ("image", "valid"):
        unlabelled[name][0] = 0
    unlabelled["region"][:] = True
    image, valid = unlabelled["image"].clone(), unlabelled["valid"].clone()
    unlabelled["region"][0, :, :9, 9:] = unlabelled["region"][1, :, 3:20, :13] = False
    for name, whole in (("image", image), ("valid", valid)):
        unlabelled[name][0, :, :9, 9:] = whole[1, :, :9, 9:]
        unlabelled[name][1, :, 3:20, :13] = whole[0, :, 3:20, :13]
    seen = []
    task = make_task()
    task.feature.register_forward_pre_hook(lambda _, given: seen.append([*given]))
    fit(task, batch)
    ((student, frozen),) = seen
    same = (student == frozen).all(dim=-1)
    assert same[:2].tolist() == [[True, True, True, True], [True, False, True, False]] and not same[2:].any()


def test_student__the_frozen_encoder_is_not_trained_and_not_saved():
    task = make_task()
    before = [p.clone() for p in task.frozen_encoder.module.parameters()]
    fit(task, student_batch(), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, task.frozen_encoder.module.parameters(), strict=True))
    assert not any("frozen" in name for name in task.state_dict())
    assert any(not torch.equal(a, b) for a, b in zip(before, task.model.pretrained.parameters(), strict=True))


def test_student__features_of_the_frozen_encoders_own_weights_cost_nothing():
    """They agree, every patch is above the margin and the loss is exactly zero."""
    task = make_task()
    task.frozen_encoder.module.load_state_dict(task.model.pretrained.state_dict())
    assert fit(task, student_batch())["train/loss/feature"] == 0


def test_student__v2_learns_from_pseudo_labels_alone_with_edges_at_twice_the_weight():
    task = make_task("v2_student_vits", model="test", encoder="none", steps=9)
    metrics = fit(task, {"unlabelled": student_batch()["unlabelled"]})
    parts = {name: metrics[f"train/loss/{name}"] for name in ("pseudo", "pseudo_gradient", "feature")}
    assert metrics["train/loss"] == pytest.approx(sum(parts.values()) + parts["pseudo_gradient"], rel=1e-5)
    assert "train/loss/labelled" not in metrics


@pytest.mark.parametrize(
    "experiment, ablation", [("v1_student_vits", "gradient_0.5"), ("v1_teacher_vits", "gradient_4.0")]
)
def test_edges__an_ablation_of_a_loss_that_the_recipe_lacks_is_refused(experiment, ablation):
    with pytest.raises(UserError, match=r"Expected a loss on edges .*labelled_gradient, pseudo_gradient; V2's recipes"):
        make_task(experiment, model="test", encoder="none", steps=9, ablation=ablation)


def test_teacher__v2_has_edges_beside_the_labels():
    task = make_task("v2_teacher_vitg", model="test", encoder="none", steps=9)
    metrics = fit(task, {"labelled": labelled(2)})
    edges = metrics["train/loss/labelled_gradient"]
    assert metrics["train/loss"] == pytest.approx(metrics["train/loss/labelled"] + 2 * edges, rel=1e-5)


def test_student__features_can_be_aligned_on_the_labelled_images_instead():
    """Where student and frozen encoder agree on one kind of image alone, only that kind has no loss."""
    batch = student_batch()
    batch["unlabelled"]["valid"][:] = False  # such images are compared with themselves
    unlabelled = fit(make_task(), batch)["train/loss/feature"]
    on_labelled = fit(make_task(ablation="feature_on_labelled"), batch)["train/loss/feature"]
    assert unlabelled == 0 and on_labelled > 0
    with pytest.raises(UserError, match="feature_on to be one of labelled, unlabelled, but got 'both'"):
        make_task(**{"task.feature_on": "both"})


@pytest.mark.parametrize("left_out", ["task.feature", "task.frozen_encoder"])
def test_student__a_feature_loss_and_a_frozen_encoder_belong_together(left_out):
    with pytest.raises(UserError, match="Expected task.feature and task.frozen_encoder, or neither"):
        make_task(**{left_out: "null"})


def test_student__data_that_do_not_fit_the_task_are_refused():
    with pytest.raises(UserError, match="labelled images and task.labelled, or neither"):
        fit(make_task(), {"unlabelled": student_batch()["unlabelled"]})


def test_student__features_on_images_that_the_data_do_not_have_are_refused():
    task = make_task("v2_student_vits", model="test", encoder="none", steps=9, **{"task.feature_on": "labelled"})
    with pytest.raises(UserError, match="Expected labelled images to align features on, but .*'unlabelled'"):
        fit(task, {"unlabelled": student_batch()["unlabelled"]})


def test_snapshot__is_there_for_every_task_that_can_be_judged():
    judged = {"tiny_student": True, "tiny_metric": True, "tiny_segmentation": True, "world_pretrain": False}
    for name, can in judged.items():
        task = type(make_task(name))
        assert (task.validated_on is not None) == (task.snapshot is not Task.snapshot) == can, name


def test_student__an_image_without_valid_label_changes_no_gradient():
    batch = student_batch()
    batch["labelled"]["valid"][0] = False
    other = {**batch, "labelled": {**batch["labelled"], "disparity": batch["labelled"]["disparity"].clone()}}
    other["labelled"]["disparity"][0] = float("nan")
    losses = [fit(make_task(), b)["train/loss/labelled"] for b in (batch, other)]
    assert losses[0] == losses[1] and torch.isfinite(torch.tensor(losses[0]))


def test_teacher__learns_one_batch():
    task, batch = make_task("tiny_teacher"), labelled(2)
    ramp = torch.linspace(0, 1, 28).expand(2, 1, 28, 28)
    batch.update(disparity=ramp, image=(ramp.expand(2, 3, 28, 28) * 255).to(torch.uint8))
    first = fit(task, {"labelled": batch})["train/loss"]
    task.optim, task.steps = task.optim, 60
    assert fit(task, {"labelled": batch}, steps=60)["train/loss"] < first / 2


def test_task__a_loss_without_weight_is_named():
    task = make_task(**{"~task.weights.feature": None})
    with pytest.raises(UserError, match="no weight for.*feature"):
        fit(task, student_batch())


def test_semantic__trains_the_encoder_and_exports_it_alone(tmp_path):
    from depth_anything_train.models.encoder_weights import load_encoder

    task = make_task("world_pretrain", model="test", **{"task.num_classes": 3})
    images = labelled(4)["image"]
    batch = {"image": images, "classes": (images[:, 0] // 128), "key": list("abcd")}
    batch["classes"][0] = 255
    losses = [fit(task, {"semantic": batch}, steps=n)["train/loss"] for n in (1, 30)]
    assert losses[1] < losses[0]
    task.record = {"seed": 0}
    task.export(tmp_path)
    fresh = build(compose("train", ["experiment=tiny_teacher", "out=x"]).model).pretrained
    load_encoder(fresh, tmp_path / "encoder.safetensors")
    trained = task.model.pretrained.float().state_dict()
    assert all(torch.allclose(fresh.state_dict()[k], v, atol=1e-3) for k, v in trained.items())
