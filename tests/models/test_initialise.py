"""What a fine-tuned model takes from the one it starts from, and what stays random."""

import networks
import pytest
import torch

from depth_anything_train.models.checkpoints import save_model
from depth_anything_train.models.initialise import LAST_LAYER, initialise_model
from depth_anything_train.models.original import save_original
from depth_anything_train.models.weights import weights_hash
from depth_anything_train.runtime import UserError

BINS = {"bins": {"domains": [["nyu", 0.001, 10.0]]}}
KINDS = {
    "relative": {},
    "bounded": {"kind": "metric", "max_depth_m": 20.0},
    "bins": {"kind": "metric", **BINS},
    "normed": {"kind": "metric", "bins": {**BINS["bins"], "centres": "normed"}},
}


def start(origin, target, tmp_path, **options):
    """Names of the target's weights that come from the origin; the origin; what is on record."""
    source = networks.build(seed=1, **KINDS[origin])
    save_model(tmp_path / "origin", source, {"size": 56, "experiment": "first"})
    model = networks.build(seed=2, **KINDS[target])
    record = initialise_model(model, tmp_path / "origin", **{"encoder": None, **options})
    theirs = source.state_dict()
    taken = {
        name for name, weight in model.state_dict().items() if torch.equal(weight, theirs.get(name, torch.empty(0)))
    }
    # What is equal for every seed says nothing.
    same = {
        name
        for name, weight in networks.build(seed=2, **KINDS[target]).state_dict().items()
        if torch.equal(weight, theirs.get(name, torch.empty(0)))
    }
    return taken - same, {name for name in model.state_dict() if name not in same}, source, record


@pytest.mark.parametrize(
    "origin, target, random",
    [
        ("relative", "relative", ()),
        ("relative", "bounded", (LAST_LAYER,)),
        ("relative", "bins", ("depth_head.bins.",)),
        ("bounded", "bounded", ()),
        ("bins", "bins", ()),
        ("bins", "normed", ("depth_head.bins.",)),
        ("bins", "bounded", (LAST_LAYER,)),
        ("bounded", "relative", (LAST_LAYER,)),
    ],
)
def test_start__takes_all_that_means_the_same(origin, target, random, tmp_path):
    taken, names, *_ = start(origin, target, tmp_path)
    assert taken == {name for name in names if not name.startswith(random or "-")}


def test_start__of_the_encoder_alone_leaves_the_decoder(tmp_path):
    taken, names, *_ = start("relative", "bins", tmp_path, parts="encoder")
    assert taken == {name for name in names if name.startswith("pretrained.")}


def test_start__is_on_record_with_hash_and_origin(tmp_path):
    *_, source, record = start("relative", "bins", tmp_path)
    assert record["init"]["hash"] == weights_hash(source)
    assert record["init"]["experiment"] == "first" and record["init"]["parts"] == "all"
    assert "encoder" not in record


def test_start__from_the_encoder_says_which():
    assert initialise_model(networks.build(), None, encoder="none") == {"encoder": "none"}


def test_start__from_nothing_is_refused():
    with pytest.raises(UserError, match="add init=MODEL"):
        initialise_model(networks.build(), None, encoder=None)


def test_start__other_blocks_of_the_decoder_are_refused(tmp_path):
    path = save_original(tmp_path, networks.build(embed_dim=384, num_heads=6, depth=8, taps="spread"))
    model = networks.build(embed_dim=384, num_heads=6, depth=8)
    with pytest.raises(UserError, match=r"add model.taps=\[1,3,5,7\]"):
        initialise_model(model, path, encoder=None)


def test_start__another_way_to_resample_positions_is_said(tmp_path, capsys):
    save_model(tmp_path / "origin", networks.build(position="transformers"))
    initialise_model(networks.build(position="transformers"), tmp_path / "origin", encoder=None)
    assert "positions" not in capsys.readouterr().err
    initialise_model(networks.build(), tmp_path / "origin", encoder=None)
    assert "model.position=transformers would keep it" in capsys.readouterr().err


def test_start__a_model_of_another_size_is_refused(tmp_path):
    save_model(tmp_path / "origin", networks.build(embed_dim=64))
    with pytest.raises(UserError, match=r"with 32 channels and 4 blocks.* has 64 and 4; choose model= to fit"):
        initialise_model(networks.build(), tmp_path / "origin", encoder=None)


def test_start__a_deeper_model_is_refused(tmp_path):
    """Its blocks in between would stay random."""
    save_model(tmp_path / "origin", networks.build())
    with pytest.raises(UserError, match=r"and 6 blocks.* and 4; choose model= to fit"):
        initialise_model(networks.build(depth=6), tmp_path / "origin", encoder=None)
