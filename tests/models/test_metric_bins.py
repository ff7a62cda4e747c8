"""The head beside a slow version written from the formulas, and beside transformers' ZoeDepth."""

import math

import networks
import numpy as np
import pytest
import torch
from scipy.special import softmax

from depth_anything_train.models.checkpoints import load_model, save_model
from depth_anything_train.models.depth_model import DepthModelConfig
from depth_anything_train.models.metric_bins import BinsConfig, MetricBins
from depth_anything_train.runtime import UserError

ONE = (("nyu", 1e-3, 10.0),)
TWO = (*ONE, ("kitti", 1e-3, 80.0))
TWO_SIZES = dict(seed_hidden=64, hidden=64, attractors=(16, 16, 16, 16), squeeze=4)
CENTRES = ["softplus", "normed"]


def bins(features=8, seed=0, **config):
    torch.manual_seed(seed)
    return MetricBins(features, BinsConfig(**{"domains": ONE, **config})).eval()


def taps(features=8, batch=2, conditions=33):
    """The 33 features at full resolution, the deepest map, and four fused maps of growing size."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(2, 3), (3, 4), (5, 7), (9, 13), (17, 25)]
    maps = [torch.randn(batch, features, *size, generator=generator) for size in sizes]
    return torch.rand(batch, conditions, 28, 42, generator=generator), maps


@pytest.mark.parametrize("centres, count", [("softplus", 478_145), ("normed", 481_886)])
def test_bins__have_the_published_number_of_parameters(centres, count):
    assert sum(p.numel() for p in bins(256, centres=centres).parameters()) == count


class Slow:
    """ZoeDepth's formulas for one image in float64, pixel by pixel."""

    def __init__(self, module, config):
        self.weights = {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}
        self.config = config
        (self.domain, self.near, self.far), *_ = config.domains

    def layer(self, name, x):
        weight = self.weights[f"{name}.weight"][:, :, 0, 0]
        return np.einsum("oc,chw->ohw", weight, x) + self.weights[f"{name}.bias"][:, None, None]

    def mlp(self, name, x):
        return self.layer(f"{name}.2", np.maximum(self.layer(f"{name}.0", x), 0))

    @staticmethod
    def enlarge(x, size):
        out = np.zeros((len(x), *size))
        for i in range(size[0]):
            for j in range(size[1]):
                y = i * (x.shape[1] - 1) / (size[0] - 1)
                z = j * (x.shape[2] - 1) / (size[1] - 1)
                top, left = min(int(y), x.shape[1] - 2), min(int(z), x.shape[2] - 2)
                v, w = y - top, z - left
                upper = (1 - w) * x[:, top, left] + w * x[:, top, left + 1]
                lower = (1 - w) * x[:, top + 1, left] + w * x[:, top + 1, left + 1]
                out[:, i, j] = (1 - v) * upper + v * lower
        return out

    def depth(self, feature, bottleneck, blocks):
        own, normed = f"domains.{self.domain}", self.config.centres == "normed"
        x = self.layer("conv2", bottleneck)
        raw = self.mlp(f"{own}.seed", x)
        if normed:
            width = np.maximum(raw, 0) + 1e-3
            width /= width.sum(axis=0)
            edges = np.concatenate([np.zeros((1, *x.shape[1:])), np.cumsum(width, axis=0)])
            centres = (edges[1:] + edges[:-1]) / 2
        else:
            centres = np.log1p(np.exp(raw))
        previous = self.mlp("seed_projector", x)
        for level, block in enumerate(blocks):
            embedding = self.mlp(f"projectors.{level}", block)
            size = block.shape[1:]
            attractors = self.mlp(f"{own}.attractors.{level}", embedding + self.enlarge(previous, size))
            attractors = np.maximum(attractors, 0)[::2] + 1e-3 if normed else np.log1p(np.exp(attractors))
            centres = self.enlarge(centres, size)
            moved = centres.copy()
            for attractor in attractors:
                distance = attractor[None] - centres
                moved += distance / (1 + 300 * distance**2) / len(attractors)
            centres, previous = moved, embedding
        if normed:
            centres = np.clip(np.sort(self.near + (self.far - self.near) * centres, axis=0), self.near, self.far)
        size = feature.shape[1:]
        centres, embedding = self.enlarge(centres, size), self.enlarge(previous, size)
        hidden = self.layer(f"{own}.binomial.0", np.concatenate([feature, embedding]))
        erf = np.vectorize(math.erf)
        four = np.log1p(np.exp(self.layer(f"{own}.binomial.2", hidden * (1 + erf(hidden / math.sqrt(2))) / 2))) + 1e-4
        p, share = four[0] / (four[0] + four[1]), four[2] / (four[2] + four[3])
        temperature = 0.0212 + (50 - 0.0212) * share
        n = self.config.count - 1
        depth = np.zeros(size)
        for i in range(size[0]):
            for j in range(size[1]):
                logits = []
                for k in range(n + 1):
                    choose = sum(sign * (m + 1e-7) * math.log(m + 1e-7) for sign, m in ((1, n), (-1, k), (-1, n - k)))
                    first = k * math.log(max(p[i, j], 1e-4)) + (n - k) * math.log(max(1 - p[i, j], 1e-4))
                    logits.append((choose + first) / temperature[i, j])
                depth[i, j] = softmax(logits) @ centres[:, i, j]
        return depth


@pytest.mark.parametrize("centres", CENTRES)
def test_depth__equals_the_formulas(centres):
    module, config = bins(centres=centres), BinsConfig(ONE, centres=centres)
    feature, (bottleneck, *blocks) = taps(batch=1)
    with torch.no_grad():
        ours, scores = module(feature, None, bottleneck, *blocks)
    slow = Slow(module, config).depth(
        *(x[0].double().numpy() for x in (feature, bottleneck)), [b[0].double().numpy() for b in blocks]
    )
    assert scores is None
    np.testing.assert_allclose(ours[0, 0].numpy(), slow, rtol=1e-5, atol=1e-5)


def test_slow_version__tells_apart_what_the_formulas_do():
    """Another strength of the attractors gives another depth: the comparison above can fail."""
    feature, (bottleneck, *blocks) = taps(batch=1)
    with torch.no_grad():
        a, b = (bins(strength=s)(feature, None, bottleneck, *blocks)[0] for s in (300.0, 1000.0))
    assert (a - b).abs().max() > 1e-3


# Their names -> ours.
THEIRS = {
    "seed_bin_regressor.conv1": "domains.nyu.seed.0",
    "seed_bin_regressor.conv2": "domains.nyu.seed.2",
    "attractors.": "domains.nyu.attractors.",
    "conditional_log_binomial.mlp": "domains.nyu.binomial",
    "patch_transformer.embedding_convPxP": "router.embed",
    "patch_transformer.transformer_encoder": "router.transformer.layers",
    "self_attn.out_proj": "self_attn.OUT",
    "mlp_classifier.linear1": "router.classifier.0",
    "mlp_classifier.linear2": "router.classifier.2",
    ".conv1": ".0",
    ".conv2": ".2",
    "self_attn.OUT": "self_attn.out_proj",
}


def theirs_of(ours, domains, centres):
    """transformers' head with our weights."""
    from transformers import ZoeDepthConfig
    from transformers.models.zoedepth import modeling_zoedepth as zoe

    limits = [dict(name=name, n_bins=64, min_depth=near, max_depth=far) for name, near, far in domains]
    router = dict(
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_num_attention_heads=4,
        patch_transformer_intermediate_size=1024,
    )
    config = ZoeDepthConfig(
        bottleneck_features=8, fusion_hidden_size=8, bin_centers_type=centres, bin_configurations=limits, **router
    )
    several = len(domains) > 1
    head = (zoe.ZoeDepthMultipleMetricDepthEstimationHeads if several else zoe.ZoeDepthMetricDepthEstimationHead)(
        config
    )
    state, weights = ours.state_dict(), {}
    for name in head.state_dict():
        mine = name
        for domain, *_ in domains if several else ():
            mine = mine.replace(f"seed_bin_regressors.{domain}.", f"domains.{domain}.seed.")
            mine = mine.replace(f"attractors.{domain}.", f"domains.{domain}.attractors.")
            mine = mine.replace(f"conditional_log_binomial.{domain}.mlp", f"domains.{domain}.binomial")
        for old, new in THEIRS.items():
            if not (several and old == "attractors."):
                mine = mine.replace(old, new)
        if any(part in mine for part in (".query.", ".key.", ".value.")):
            layer, _, rest = mine.partition(".self_attn.")
            part, kind = rest.split(".")
            weights[name] = state[f"{layer}.self_attn.in_proj_{kind}"].chunk(3)[("query", "key", "value").index(part)]
        else:
            weights[name] = state["conv2." + name[6:] if name.startswith("conv2.") else mine]
    head.load_state_dict(weights)
    return head.eval()


@pytest.mark.parametrize("centres", CENTRES)
@pytest.mark.parametrize("domains", [ONE, TWO], ids=["one", "two"])
def test_depth__equals_that_of_transformers(centres, domains):
    several = len(domains) > 1
    ours = bins(domains=domains, centres=centres, **(TWO_SIZES if several else {}))
    theirs = theirs_of(ours, domains, centres)
    feature, (bottleneck, *blocks) = taps(batch=1)
    with torch.no_grad():
        depth, scores = ours(feature, None, bottleneck, *blocks)
        expected, expected_scores = theirs(feature[:, :32], bottleneck, blocks, feature[:, 32])
    torch.testing.assert_close(depth, expected, rtol=1e-5, atol=1e-5)
    if several:
        torch.testing.assert_close(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_normed__stays_in_its_range():
    feature, (bottleneck, *blocks) = taps()
    depth, _ = bins(centres="normed")(feature, None, *(50 * x for x in (bottleneck, *blocks)))
    assert (depth >= 1e-3).all() and (depth <= 10).all()


def test_domain__decides_whose_bins_are_used():
    module = bins(domains=TWO, **TWO_SIZES)
    feature, maps = taps()
    with torch.no_grad():
        nyu, kitti, mixed = (module(feature, torch.tensor(d), *maps)[0] for d in ([0, 0], [1, 1], [0, 1]))
    assert torch.equal(mixed, torch.stack([nyu[0], kitti[1]])) and not torch.allclose(nyu, kitti)


def test_routing__does_not_depend_on_the_neighbours_in_the_batch():
    module = bins(domains=TWO, **TWO_SIZES)
    feature, maps = taps()
    with torch.no_grad():
        together = module(feature, None, *maps)[0]
        alone = module(feature[1:], None, *(x[1:] for x in maps))[0]
    torch.testing.assert_close(together[1:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("domains", [ONE, TWO], ids=["one", "two"])
def test_model__every_trainable_parameter_gets_a_gradient(domains):
    model = networks.build(kind="metric", bins={"domains": domains})
    depth, scores = model.route(torch.randn(2, 3, 28, 42), torch.tensor([0, len(domains) - 1]))
    (depth.sum() + (0 if scores is None else scores.square().sum())).backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()


def test_model__is_saved_with_its_bins_and_built_again(tmp_path):
    model = networks.build(kind="metric", bins={"domains": TWO, "centres": "normed"}).eval()
    assert model.config.max_depth_m == 80
    again, _ = load_model(save_model(tmp_path / "m", model))
    assert again.config == model.config and networks.equal(again, model)
    image = torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        assert torch.equal(again(image), model(image)) and again(image).shape == (1, 1, 28, 42)


def test_to_bfloat16__the_bins_stay_exact():
    model = networks.build(kind="metric", bins={"domains": ONE}).eval()
    image = torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        full, rounded = model(image), model.to_bfloat16()(image.bfloat16())
    assert rounded.dtype == torch.float32 and model.depth_head.bins.conv2.weight.dtype == torch.float32
    torch.testing.assert_close(rounded, full, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"domains": ()}, "domains"),
        ({"domains": (("nyu", 10, 1),)}, "domains"),
        ({"domains": (("a.b", 1, 10),)}, "domains"),
        ({"domains": (*ONE, *ONE)}, "domains"),
        ({"centres": "hybrid"}, "centres"),
        ({"attractors": (16, 8, 4)}, "four"),
        ({"count": 0}, "count"),
    ],
)
def test_config__what_cannot_be_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        BinsConfig(**{"domains": ONE, **changes})


def test_config__another_farthest_depth_than_that_of_the_bins_is_refused():
    config = networks.build(kind="metric", bins={"domains": ONE}).config.to_dict()
    with pytest.raises(UserError, match="farthest depth of the bins, 10 m"):
        DepthModelConfig.from_dict({**config, "max_depth_m": 80.0})
