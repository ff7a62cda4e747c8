"""The metric-bins head of ZoeDepth on a DPT decoder: each pixel's depth is a mean of bin centres that attractors moved.

Where paper and public code of ZoeDepth differ, this is the code, which is what published weights belong to: an
attractor's strength is 300 (the configured 1000 is never passed on), attractors of `normed` centres are not normed,
and binomial coefficients are Stirling's.

- [0]: ZoeDepth, 2023, https://arxiv.org/abs/2302.12288
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from depth_anything_train.models.domain_router import DomainRouter
from depth_anything_train.models.dpt import DPTHead
from depth_anything_train.ops.enlarge import enlarge
from depth_anything_train.ops.precision import in_float32
from depth_anything_train.runtime import UserError, require_choice, require_count
from depth_anything_train.types import DepthMetres

Centres = Literal["softplus", "normed"]

FEATURES = 32  # channels of the decoder at full resolution
EPSILON = 1e-3  # keeps widths and attractors of normed centres above zero
SHARE_EPSILON = 1e-4
COLDEST, HOTTEST = 0.0212, 50.0  # temperatures of the softmax over bins


@dataclass(frozen=True)
class BinsConfig:
    """Everything that decides a metric-bins head.

    Args:
        domains: name, nearest and farthest depth in metres of each. Several domains have a head each and a router
            that looks at the image; its scores have the order of this list.
        centres: `softplus` leaves bin centres unbounded, `normed` keeps them in the domain's range.
        count: number of bins.
        embedding: channels in which a pixel's bins are described.
        seed_hidden, hidden: channels inside the regressor of the first centres, and inside the projectors.
        attractors: how many move the centres on each of the four maps, coarse to fine.
        strength: alpha of an attractor; the larger, the less it moves the centres.
        squeeze: the last network has so many times fewer channels inside than come in.

    Raises:
        UserError: a range or a number that cannot be.
    """

    domains: tuple[tuple[str, float, float], ...]
    centres: Centres = "softplus"
    count: int = 64
    embedding: int = 128
    seed_hidden: int = 256
    hidden: int = 128
    attractors: tuple[int, int, int, int] = (16, 8, 4, 1)
    strength: float = 300.0
    squeeze: int = 2

    def __post_init__(self) -> None:
        require_choice("bins.centres", self.centres, get_args(Centres))
        if not self.domains or not all(map(_is_domain, self.domains)) or len(set(self.names)) < len(self.domains):
            raise UserError(
                "Expected bins.domains to list name, nearest and farthest depth in metres of each domain, such as "
                f"[[nyu, 0.001, 10]], but got {[*self.domains]!r}."
            )
        counts = {name: getattr(self, name) for name in ("count", "embedding", "seed_hidden", "hidden", "squeeze")}
        counts |= {f"attractors[{i}]": number for i, number in enumerate(self.attractors)}
        for name, number in counts.items():
            require_count(f"bins.{name}", number)
        if len(self.attractors) != 4:
            raise UserError(f"Expected four bins.attractors, one for each map, but got {list(self.attractors)}.")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BinsConfig:
        """Build from plain JSON or a config file, whose lists become tuples."""
        domains = tuple(tuple(domain) for domain in content["domains"])
        attractors = tuple(content.get("attractors", cls.attractors))
        return cls(**{**content, "domains": domains, "attractors": attractors})

    @property
    def names(self) -> list[str]:
        """The names of the domains, in the order of the router's scores."""
        return [name for name, *_ in self.domains]

    @property
    def farthest_m(self) -> float:
        """The farthest depth of all domains in metres."""
        return float(max(farthest for *_, farthest in self.domains))


def _is_domain(domain: Sequence[Any]) -> bool:
    if len(domain) != 3 or not all(isinstance(metres, int | float) for metres in domain[1:]):
        return False
    return str(domain[0]).isidentifier() and 0 < domain[1] < domain[2]


class MetricBinsHead(DPTHead):
    """A DPT decoder whose features feed bins: four maps to depth in metres (B, 1, H, W), float32.

    Its weights under the names of a relative decoder are those of a relative model, which fine-tuning starts from;
    what is new stands under `bins.`.
    """

    def __init__(self, embed_dim: int, features: int, out_channels: Sequence[int], config: BinsConfig) -> None:
        super().__init__(embed_dim, features, out_channels)
        self.bins = MetricBins(features, config)
        if self.bins.router is not None:  # then relative depth is not asked for, and DDP would wait for its gradient
            self.scratch.output_conv2[2].requires_grad_(False)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> DepthMetres:
        """Depth at `size` = (H, W), of the domain that the image seems to be of."""
        return self.route(maps, size)[0]

    def route(
        self, maps: Sequence[Tensor], size: Sequence[int], domain: Tensor | None = None
    ) -> tuple[DepthMetres, Tensor | None]:
        """Depth by the heads of the given domains (B,), or of those that the router chooses; and its scores (B, D)."""
        bottleneck, *blocks = self.fuse(maps)
        first, last = (cast(nn.Conv2d, self.scratch.output_conv2[index]) for index in (0, 2))
        feature = first(enlarge(self.scratch.output_conv1(blocks[-1]), size)).relu()
        relative = in_float32(last)(feature).relu()
        return self.bins(torch.cat([feature.float(), relative], dim=1), domain, bottleneck, *blocks)

    def exact_layers(self) -> list[nn.Module]:
        """The bins too: they add up what bfloat16 would round to steps."""
        return [*super().exact_layers(), self.bins]


class MetricBins(nn.Module):
    """What all domains share, the bins of each, and where there are several the router between them."""

    def __init__(self, features: int, config: BinsConfig) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(features, features, kernel_size=1)
        self.seed_projector = mlp(features, config.hidden, config.embedding)
        self.projectors = nn.ModuleList(mlp(features, config.hidden, config.embedding) for _ in config.attractors)
        several = len(config.domains) > 1
        self.conditions = FEATURES if several else FEATURES + 1
        self.domains = nn.ModuleDict(
            {name: DomainBins(features, self.conditions, config, *limits) for name, *limits in config.domains}
        )
        self.router = DomainRouter(features, len(config.domains)) if several else None

    @in_float32
    def forward(
        self, feature: Tensor, domain: Tensor | None, bottleneck: Tensor, *blocks: Tensor
    ) -> tuple[DepthMetres, Tensor | None]:
        """Features and relative depth (B, 33, H, W), the deepest map and the four fused ones, coarse to fine."""
        x = self.conv2(bottleneck)
        seed = self.seed_projector(x)
        embeddings = [project(block) for project, block in zip(self.projectors, blocks, strict=True)]
        condition = feature[:, : self.conditions]
        depths = [bins(x, seed, embeddings, condition) for bins in self.domains.values()]
        if self.router is None:
            return depths[0], None
        scores = self.router(x)
        chosen = scores.argmax(dim=1) if domain is None else domain
        return torch.stack(depths, dim=1)[torch.arange(x.shape[0], device=x.device), chosen], scores


class DomainBins(nn.Module):
    """Centres that attractors move from map to map, and for every pixel a log-binomial distribution over them."""

    def __init__(self, features: int, conditions: int, config: BinsConfig, nearest_m: float, farthest_m: float) -> None:
        super().__init__()
        self.nearest_m, self.farthest_m = nearest_m, farthest_m
        self.normed, self.strength, self.count = config.centres == "normed", config.strength, config.count
        points = 2 if self.normed else 1  # of normed attractors only every other channel is used
        self.seed = mlp(features, config.seed_hidden, config.count)
        self.attractors = nn.ModuleList(
            mlp(config.embedding, config.embedding, number * points) for number in config.attractors
        )
        incoming = conditions + config.embedding
        self.binomial = nn.Sequential(
            nn.Conv2d(incoming, incoming // config.squeeze, kernel_size=1),
            nn.GELU(),
            nn.Conv2d(incoming // config.squeeze, 4, kernel_size=1),
            nn.Softplus(),
        )

    def forward(self, x: Tensor, seed: Tensor, embeddings: Sequence[Tensor], condition: Tensor) -> DepthMetres:
        """Depth in metres at the size of `condition`."""
        centres, previous = self._first_centres(x), seed
        for attract, embedding in zip(self.attractors, embeddings, strict=True):
            size = embedding.shape[-2:]
            points = self._points(attract(embedding + enlarge(previous, size)))
            centres, previous = enlarge(centres, size), embedding
            centres = centres + self._pull(points, centres)
        size = condition.shape[-2:]
        probability = self._probability(torch.cat([condition, enlarge(previous, size)], dim=1))
        return (probability * enlarge(self._metres(centres), size)).sum(dim=1, keepdim=True)

    def _first_centres(self, x: Tensor) -> Tensor:
        if not self.normed:
            return softplus(self.seed(x))
        widths = self.seed(x).relu() + EPSILON
        widths = widths / widths.sum(dim=1, keepdim=True)
        return widths.cumsum(dim=1) - widths / 2

    def _points(self, raw: Tensor) -> Tensor:
        return raw.relu()[:, ::2] + EPSILON if self.normed else softplus(raw)

    def _pull(self, points: Tensor, centres: Tensor) -> Tensor:
        """Mean over attractors a of (a - c) / (1 + strength (a - c)^2): near centres are drawn, far ones hardly."""
        distances = (point - centres for point in points.split(1, dim=1))
        pulls = (distance / (1 + self.strength * distance.square()) for distance in distances)
        return cast(Tensor, sum(pulls)) / points.shape[1]

    def _metres(self, centres: Tensor) -> Tensor:
        if not self.normed:
            return centres
        metres = self.nearest_m + (self.farthest_m - self.nearest_m) * centres
        return metres.sort(dim=1).values.clamp(self.nearest_m, self.farthest_m)

    def _probability(self, x: Tensor) -> Tensor:
        """Softmax over bins k of log(p^k (1 - p)^(n - k) n over k) / temperature, n = bins - 1."""
        first, second, hot, cold = (self.binomial(x) + SHARE_EPSILON).split(1, dim=1)
        p, temperature = first / (first + second), COLDEST + (HOTTEST - COLDEST) * hot / (hot + cold)
        k = torch.arange(self.count, device=x.device, dtype=x.dtype).view(1, -1, 1, 1)
        n = self.count - 1
        log_p, log_rest = p.clamp(min=SHARE_EPSILON).log(), (1 - p).clamp(min=SHARE_EPSILON).log()
        logit = stirling(n, k) + k * log_p + (n - k) * log_rest
        return (logit / temperature).softmax(dim=1)


def stirling(n: int, k: Tensor) -> Tensor:
    """Logarithm of n over k, nearly, as ZoeDepth has it."""
    tiny = 1e-7
    rest = n - k + tiny
    return (n + tiny) * math.log(n + tiny) - (k + tiny) * (k + tiny).log() - rest * rest.log()


def mlp(incoming: int, hidden: int, outgoing: int) -> nn.Sequential:
    """Two 1x1 convolutions with a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(incoming, hidden, kernel_size=1), nn.ReLU(), nn.Conv2d(hidden, outgoing, kernel_size=1)
    )
