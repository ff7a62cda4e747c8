import cv2
import numpy as np
import pytest
from segmented import classes_of, write_segmented

from depth_anything_train.data.colour import PhotometricDistortion
from depth_anything_train.data.datamodule import ShardDataModule
from depth_anything_train.data.schema import NO_CLASS, BadSample
from depth_anything_train.data.segmentation import (
    MEAN_COLOUR,
    ScaledCrops,
    SegmentedSource,
)
from depth_anything_train.runtime import UserError


def sample(height=60, width=90, seed=0):
    """A picture whose red channel is its class, so that image and label can be compared."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 8, (height // 10, width // 10)).astype(np.uint8)
    classes = np.kron(blocks, np.ones((10, 10), np.uint8))
    return {"image": np.repeat(classes[..., None] * np.uint8(30), 3, axis=2), "classes": classes, "key": "k"}


def crops(size=28, **changes):
    settings = dict(flip=0.5, scales=[0.5, 1.0, 2.0], max_side=200, max_share=0.75)
    return ScaledCrops(size, **{**settings, **changes})


def test_crops__image_and_classes_stay_together_at_every_scale():
    for seed in range(30):
        view = crops().crop(sample(), np.random.default_rng(seed))
        assert view["image"].shape == (28, 28, 3) and view["classes"].shape == (28, 28)
        inside = cv2.erode((view["classes"] != NO_CLASS).astype(np.uint8), np.ones((3, 3))) > 0
        # Away from the edges of the blocks the nearest of the colours is that of the class itself.
        flat = cv2.dilate(view["classes"], np.ones((7, 7))) == cv2.erode(view["classes"], np.ones((7, 7)))
        at = inside & flat
        at[:3] = at[-3:] = at[:, :3] = at[:, -3:] = False  # a block that begins right outside is seen there
        assert (np.rint(view["image"][at] / 30) == view["classes"][at][:, None]).all()


def test_crops__where_the_image_ends_is_grey_and_no_class():
    view = crops(scales=[0.5], flip=0.0).crop(sample(), np.random.default_rng(0))  # 14 x 21
    assert (view["classes"][14:] == NO_CLASS).all() and (view["classes"][:, 21:] == NO_CLASS).all()
    assert (view["classes"][:14, :21] != NO_CLASS).all()
    assert (view["image"][view["classes"] == NO_CLASS] == MEAN_COLOUR).all()
    flipped = crops(scales=[0.5], flip=1.0).crop(sample(), np.random.default_rng(0))
    assert (flipped["classes"][:14, :21] == view["classes"][:14, :21][:, ::-1]).all()


def test_crops__the_longest_side_has_a_limit():
    wide = {"image": np.zeros((20, 200, 3), np.uint8), "classes": np.zeros((20, 200), np.uint8), "key": "k"}
    view = crops(scales=[2.0], max_side=100).crop(wide, np.random.default_rng(0))  # 56 x 560 without
    assert (view["classes"][:10] == 0).all() and (view["classes"][10:] == NO_CLASS).all()


def test_crops__no_class_prevails_where_a_window_of_ten_is_varied_and_else_the_last_is_taken():
    half = np.zeros((56, 56), np.uint8)
    half[:, 28:] = 1
    shown = {"image": np.repeat(half[..., None], 3, axis=2), "classes": half, "key": "k"}

    def largest_share(max_share, seed):
        classes = crops(scales=[2.0], max_share=max_share).crop(shown, np.random.default_rng(seed))["classes"]
        return np.bincount(classes.ravel()).max() / classes.size

    free = [largest_share(1.0, seed) for seed in range(200)]
    varied = [largest_share(0.75, seed) for seed in range(200)]
    assert np.mean([share > 0.75 for share in free]) > 0.3
    # All ten of them are one-sided with probability of about 0.5 to the tenth.
    assert np.mean([share > 0.75 for share in varied]) <= 0.01
    labelled = np.where(half == 0, np.uint8(NO_CLASS), np.arange(56, dtype=np.uint8)[:, None] % 2)
    empty = [
        (crops(scales=[2.0]).crop({**shown, "classes": labelled}, np.random.default_rng(seed))["classes"] == NO_CLASS)
        for seed in range(200)
    ]
    assert np.mean([where.all() for where in empty]) <= 0.01, "a window in which nothing is labelled is drawn again"
    one = {name: x * 0 if name != "key" else x for name, x in shown.items()}
    assert (crops().crop(one, np.random.default_rng(0))["classes"] != NO_CLASS).any()


def test_crops__settings_that_cannot_be_are_refused():
    for changes in ({"rotate_deg": 1.0}, {"scales": []}, {"scales": [0.0]}, {"max_side": 10}, {"max_share": 0.0}):
        with pytest.raises(UserError, match="Expected data"):
            crops(**changes)


def test_source__classes_are_those_of_the_model(tmp_path):
    folder = write_segmented(tmp_path / "shards", count=3)
    source = SegmentedSource([folder], num_classes=4)
    image, classes = classes_of(1)
    loaded = source.load(1)
    assert (loaded["classes"] == classes).all() and loaded["image"].shape == image.shape
    with pytest.raises(UserError, match="of 150 classes"):
        SegmentedSource([folder], num_classes=150)
    source.num_classes = 1
    with pytest.raises(BadSample, match="shows class"):
        source.load(0)


def module(folder, **changes):
    return ShardDataModule(
        sources={"segmented": SegmentedSource([folder], num_classes=4)},
        batch={"segmented": 4},
        size=28,
        steps=6,
        seed=1,
        geometry=lambda size, **given: crops(size, **given),
        colour=PhotometricDistortion(),
        **changes,
    )


def test_loader__any_step_is_the_same_with_workers_from_the_middle_and_on_other_ranks(tmp_path):
    folder = write_segmented(tmp_path / "shards", count=5)
    whole = [batch["segmented"] for batch in module(folder).loader()]
    assert set(whole[0]) == {"image", "classes", "key", "source"} and whole[0]["classes"].shape == (4, 28, 28)
    late = [batch["segmented"] for batch in module(folder, workers=2).loader(start=4)]
    shares = [module(folder).batch(5, rank=rank, world_size=2)["segmented"] for rank in range(2)]
    for a, b in ((whole[4], late[0]), (whole[5], late[1])):
        assert (a["image"] == b["image"]).all() and (a["classes"] == b["classes"]).all() and a["key"] == b["key"]
    assert (np.concatenate([share["image"].numpy() for share in shares]) == whole[5]["image"].numpy()).all()
    assert not (whole[0]["image"] == whole[1]["image"]).all()


def test_loader__a_bad_sample_is_grey_everywhere_without_class(tmp_path):
    folder = write_segmented(tmp_path / "shards", count=5, damaged=(2,))
    batches = [batch["segmented"] for batch in module(folder, max_bad_share=0.5).loader()]
    bad = [batch["classes"][i] for batch in batches for i, key in enumerate(batch["key"]) if key.startswith("bad")]
    assert len(bad) >= 4 and all((classes == NO_CLASS).all() for classes in bad)
