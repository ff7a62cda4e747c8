"""Scale-invariant log loss (SILog), the loss of metric depth."""

from __future__ import annotations

from torch import nn

from depth_anything_train.ops.precision import in_float32
from depth_anything_train.runtime import UserError
from depth_anything_train.types import DepthMetres, Scalar, Valid


class SILog(nn.Module):
    """factor * sqrt(variance(g) + keep * mean(g)^2) of g = ln(prediction) - ln(truth) over a batch's valid pixels.

    Both published forms are this one: ZoeDepth writes it so (factor 10, keep 0.15, unbiased variance); V2 writes
    sqrt(mean(g^2) - 0.5 mean(g)^2), which is the biased variance and keep 0.5.

    Pixels of all images are taken together, as in both: the loss of a batch is not the mean of its parts' losses. A
    batch without two valid pixels adds exactly nothing. Computed in float32 under autocast.

    Args:
        factor: on the whole.
        keep: share of the squared mean that counts; at 0 a wrong unit would cost nothing.
        unbiased: divide the variance by one pixel less.
        epsilon: added to both depths before the logarithm, in metres.

    - [0]: ZoeDepth, 2023, https://arxiv.org/abs/2302.12288
    - [1]: Depth Anything V2, 2024, https://arxiv.org/abs/2406.09414
    """

    def __init__(
        self, *, factor: float = 10.0, keep: float = 0.15, unbiased: bool = True, epsilon: float = 1e-7
    ) -> None:
        super().__init__()
        if not (factor > 0 and 0 <= keep <= 1 and epsilon >= 0):
            raise UserError(
                f"Expected factor > 0, keep in 0 to 1 and epsilon >= 0, but got {factor}, {keep} and {epsilon}."
            )
        self.factor, self.keep, self.unbiased, self.epsilon = factor, keep, unbiased, epsilon

    @in_float32
    def forward(self, pred: DepthMetres, target: DepthMetres, valid: Valid) -> Scalar:
        """Compare in metres; what stands at invalid pixels does not matter, NaN included."""
        # Masked before the logarithm: a gradient of NaN times zero would be NaN.
        error = (pred.where(valid, 1.0) + self.epsilon).log() - (target.where(valid, 1.0) + self.epsilon).log()
        count = valid.sum()
        mean = error.sum() / count.clamp(min=1)  # at an invalid pixel the error is exactly 0
        deviation = (error - mean).where(valid, 0.0).square().sum()
        variance = deviation / (count - 1 if self.unbiased else count).clamp(min=1)
        squared = variance + self.keep * mean.square()
        # The root's slope at 0 is infinite: where there is nothing to learn, nothing is rooted.
        some = (count > 1) & (squared > 0)
        return self.factor * squared.where(some, 1.0).sqrt().where(some, 0.0)
