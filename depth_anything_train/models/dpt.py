"""The DPT decoder of Depth Anything: four feature maps of one size in, one dense map out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from depth_anything_train.models.convolution import Conv3x3
from depth_anything_train.ops.enlarge import enlarge
from depth_anything_train.ops.precision import in_float32

# The final ReLU passes no gradient where its input is negative, and from some random weights that is the whole map,
# for ever. Without the bias the random outputs of all sizes lie within 0.1 of zero, so starting at 1 keeps every pixel
# alive and leaves room to spread downwards; the losses ignore a shift, so it costs nothing.
INITIAL_BIAS = 1.0

# glibc gives memory of more than 32 MiB back to the system after each use. To get it again takes several times as long
# as a ReLU in it takes, and the last layers have 32 channels at the full resolution: so above these pixels, in strips.
LARGEST_PIXELS = 2**25 // (32 * 4)
STRIP_ROWS = 64


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(features, features)
        self.conv2 = Conv3x3(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return x + self.conv2(relu(self.conv1(relu(x)), inplace=True))


class FeatureFusion(nn.Module):
    """Add a finer map to the coarser one, refine, and enlarge to the next size.

    The 1x1 convolution runs before the bilinear enlargement, the released code runs it after. The two commute exactly,
    as the weights of a bilinear sample sum to one, and before costs a quarter.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)

    def forward(self, x: Tensor, finer: Tensor | None, size: Sequence[int]) -> Tensor:
        """(B, C, h, w), and the finer map of the same shape if there is one, to (B, C, *size)."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return enlarge(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The convolutions that are trained from scratch, in the released layout; `DPTHead` runs them."""

    def __init__(self, features: int, out_channels: Sequence[int]) -> None:
        super().__init__()
        c1, c2, c3, c4 = out_channels
        self.layer1_rn = Conv3x3(c1, features, bias=False)
        self.layer2_rn = Conv3x3(c2, features, bias=False)
        self.layer3_rn = Conv3x3(c3, features, bias=False)
        self.layer4_rn = Conv3x3(c4, features, bias=False)
        self.refinenet1 = FeatureFusion(features)
        self.refinenet2 = FeatureFusion(features)
        self.refinenet3 = FeatureFusion(features)
        self.refinenet4 = FeatureFusion(features)
        self.output_conv1 = Conv3x3(features, features // 2)
        self.output_conv2 = nn.Sequential(Conv3x3(features // 2, 32), nn.ReLU(), nn.Conv2d(32, 1, kernel_size=1))


class DPTHead(nn.Module):
    """Four maps (B, C, h, w), shallow to deep, to one map (B, 1, H, W).

    Args:
        embed_dim: channels of the incoming maps.
        features: channels of the fusion path; half of them reach the full resolution.
        out_channels: channels to which the four maps are brought first.
        max_depth_m: farthest depth in metres of a metric decoder, which ends in a sigmoid times this; None for a
            relative one, which ends in a ReLU and gives disparity >= 0.
    """

    def __init__(
        self, embed_dim: int, features: int, out_channels: Sequence[int], max_depth_m: float | None = None
    ) -> None:
        super().__init__()
        self.max_depth_m = max_depth_m
        c1, c2, c3, c4 = out_channels
        self.projects = nn.ModuleList(nn.Conv2d(embed_dim, channels, kernel_size=1) for channels in out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c1, c1, kernel_size=4, stride=4),
                nn.ConvTranspose2d(c2, c2, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(c4, c4, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(features, out_channels)
        # The deepest block gets a single map: these weights only keep their place in the checkpoint, and frozen
        # they are no parameters that DDP would wait for.
        self.scratch.refinenet4.resConfUnit1.requires_grad_(False)
        if max_depth_m is None:
            nn.init.constant_(self.scratch.output_conv2.get_parameter("2.bias"), INITIAL_BIAS)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """The dense map at `size` = (H, W), float32 whatever autocast says."""
        x = enlarge(self.scratch.output_conv1(self.fuse(maps)[-1]), size)
        x = self._in_strips(x) if _needs_strips(x) else self._output(x)
        return relu(x) if self.max_depth_m is None else torch.sigmoid(x) * self.max_depth_m

    def fuse(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The deepest map at the path's width and what the four fusions give, coarse to fine: (B, features, h, w)."""
        s = self.scratch
        narrow = (s.layer1_rn, s.layer2_rn, s.layer3_rn, s.layer4_rn)
        stages = zip(maps, self.projects, self.resize_layers, narrow, strict=True)
        m1, m2, m3, m4 = (convolve(resize(project(x))) for x, project, resize, convolve in stages)
        x4 = s.refinenet4(m4, None, m3.shape[-2:])
        x3 = s.refinenet3(x4, m3, m2.shape[-2:])
        x2 = s.refinenet2(x3, m2, m1.shape[-2:])
        x1 = s.refinenet1(x2, m1, [2 * length for length in m1.shape[-2:]])
        return [m4, x4, x3, x2, x1]

    def exact_layers(self) -> list[nn.Module]:
        """What stays float32 when the other weights are turned into bfloat16."""
        return [self.scratch.output_conv2[2]]

    def _output(self, x: Tensor) -> Tensor:
        """The last two convolutions: (B, C, H, W) to (B, 1, H, W)."""
        first, last = (cast(nn.Conv2d, self.scratch.output_conv2[index]) for index in (0, 2))
        return _last_layers(first(x), last.weight, last.bias)

    def _in_strips(self, x: Tensor) -> Tensor:
        """`_output` of some rows at a time, each time with the row above and the row below that reach into them."""
        maps = []
        for image in x.split(1):
            strips = []
            for top in range(0, x.shape[2], STRIP_ROWS):
                start = max(top - 1, 0)
                strip = self._output(image[:, :, start : top + STRIP_ROWS + 1])
                strips.append(strip[:, :, top - start :][:, :, :STRIP_ROWS])
            maps.append(torch.cat(strips, dim=2))
        return torch.cat(maps)


@in_float32  # bfloat16 has eight bits, which would show as terraces
def _last_layers(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return conv2d(relu(x, inplace=True), weight, bias)


def _needs_strips(x: Tensor) -> bool:
    graph = torch.is_grad_enabled() or torch.compiler.is_compiling()  # which would hold every strip
    return x.device.type == "cpu" and not graph and x[:, 0].numel() > LARGEST_PIXELS
