import pytest
import timm
import torch

from depth_anything_train.models.encoder import DinoV2Encoder, EncoderConfig, resolve_taps
from depth_anything_train.runtime import UserError


def config(**changes):
    plain = dict(name="test", embed_dim=32, depth=4, num_heads=2, ffn="mlp", taps=(0, 1, 2, 3), image_size=56)
    return EncoderConfig(**{**plain, **changes})


def encoder(seed=0, **changes):
    torch.manual_seed(seed)
    return DinoV2Encoder(config(**changes)).eval()


def timm_twin(ours):
    """timm's own vision transformer with the same weights."""
    c = ours.config
    mlp = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 2.75 * 2}
    twin = timm.models.VisionTransformer(
        img_size=c.image_size, patch_size=14, embed_dim=c.embed_dim, depth=c.depth, num_heads=c.num_heads,
        init_values=1.0, num_classes=0, dynamic_img_size=True, **(mlp if c.ffn == "swiglu" else {}),
    )  # fmt: skip
    names = {"mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
    weights = {}
    for name, tensor in ours.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = tensor
    weights.pop("mask_token")
    twin.load_state_dict(weights)
    return twin.eval()


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("size", [(56, 56), (28, 70)])
def test_forward__equals_timms_vision_transformer(ffn, size):
    ours = encoder(ffn=ffn, position="timm", taps=(0, 1, 2, 3))
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps, patches = ours.forward_taps(image)
        expected = timm_twin(ours).get_intermediate_layers(image, n=4, norm=True, reshape=True)
    for ours_map, timm_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours_map, timm_map, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(patches, expected[-1].flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)


def test_forward__is_the_last_block_whatever_the_taps():
    early = encoder(taps=(0, 1, 2, 5), depth=6)
    last = encoder(taps=(2, 3, 4, 5), depth=6)
    image = torch.randn(1, 3, 56, 42)
    assert torch.equal(early(image), last(image))
    assert early(image).shape == (1, 12, 32)


def test_forward_taps__maps_are_the_tapped_blocks():
    image = torch.randn(1, 3, 28, 42)
    all_maps = [encoder(depth=5, taps=taps).forward_taps(image)[0] for taps in ((0, 1, 2, 4), (0, 2, 3, 4))]
    assert all_maps[0][0].shape == (1, 32, 2, 3)
    assert torch.equal(all_maps[0][0], all_maps[1][0])
    assert torch.equal(all_maps[0][2], all_maps[1][1])


def test_forward_taps__maps_lie_channels_last_without_a_copy():
    maps, patches = encoder().forward_taps(torch.randn(2, 3, 56, 56))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    assert maps[-1].data_ptr() == patches.data_ptr()


def test_forward__is_equivariant_to_the_order_of_images():
    image = torch.randn(3, 3, 56, 56)
    torch.testing.assert_close(encoder()(image.flip(0)), encoder()(image).flip(0))


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_activation_checkpointing__changes_no_gradient(ffn):
    gradients = []
    for recompute in ("none", "selective", "full"):
        torch.manual_seed(0)
        model = DinoV2Encoder(config(ffn=ffn), activation_checkpointing=recompute).train()
        model(torch.ones(1, 3, 56, 56)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*gradients, strict=True))


def test_parameters__only_the_mask_token_is_frozen():
    assert [name for name, p in encoder().named_parameters() if not p.requires_grad] == ["mask_token"]


@pytest.mark.parametrize("height, width", [(57, 56), (56, 13)])
def test_forward__refuses_sides_that_are_no_multiple_of_the_patch(height, width):
    with pytest.raises(UserError, match="multiples of the patch size 14.*resize to 56 x"):
        encoder()(torch.randn(1, 3, height, width))


def test_resolve_taps__gives_the_blocks_of_both_versions():
    assert resolve_taps("last4", 12) == (8, 9, 10, 11)
    assert resolve_taps("last4", 24) == (20, 21, 22, 23)
    spread = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
    assert {depth: resolve_taps("spread", depth) for depth in spread} == spread
    assert resolve_taps([0, 1, 2, 3], 4) == (0, 1, 2, 3)
    with pytest.raises(UserError, match="last4, spread"):
        resolve_taps("middle", 12)
    with pytest.raises(UserError, match="four taps"):
        resolve_taps([0, 1, 3], 4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_heads": 5}, "multiple of num_heads"),
        ({"image_size": 60}, "use 56"),
        ({"taps": (0, 1, 2, 4)}, "0 to 3"),
        ({"taps": (1, 0, 2, 3)}, "ascending"),
        ({"taps": (0, 1, 2, 3), "depth": 5}, "the last one among them"),
        ({"ffn": "moe"}, "mlp, swiglu"),
        ({"position": "nearest"}, "dinov2, timm, transformers"),
    ],
)
def test_config__says_what_does_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def saved_bytes(recompute):
    """What the encoder keeps for backward, weights aside."""
    model, sizes = DinoV2Encoder(config(), activation_checkpointing=recompute).train(), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(torch.ones(4, 3, 56, 56))
    return sum(sizes.values()), result


def test_activation_checkpointing__keeps_less():
    (everything, _), (selective, _), (full, _) = map(saved_bytes, ("none", "selective", "full"))
    assert full < 0.4 * everything and selective < 0.75 * everything


def test_activation_checkpointing__an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="none, selective, full"):
        DinoV2Encoder(config(), activation_checkpointing="some")
