"""The loss of Mask2Former: as many masks as there are classes in an image, each matched with the query that fits best.

- [0]: Masked-attention Mask Transformer for Universal Image Segmentation, 2022, https://arxiv.org/abs/2112.01527
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depth_anything_train.runtime import import_extra
from depth_anything_train.types import Classes, Scalar

NAMES = {"classes": "loss_cross_entropy", "mask": "loss_mask", "dice": "loss_dice"}
"""Our names of the losses, and those of transformers."""


class MaskSetLoss(nn.Module):
    """Three losses, each a sum over the decoder's layers: of the class, of the mask's pixels, and of its overlap.

    The loss of every layer is transformers' own. Numbers of masks are those of the images at hand, as many as a device
    takes at once: the loss of a batch is not the mean of its parts' losses. Pixels without a class belong to no mask,
    and an image that has no class at all adds nothing.

    Args:
        num_classes: K; larger values in a map of classes mark no class.
        points: random points at which masks are compared.
        oversample: candidates drawn for each of these points.
        importance: share of the points that are the most uncertain candidates; the others are random.
        no_object: weight of "no class" beside that of a class.
        match: weights of the three costs by which masks and queries are matched: `classes`, `mask` and `dice`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        no_object: float = 0.1,
        match: Mapping[str, float],
    ) -> None:
        super().__init__()
        transformers = import_extra("transformers", extra="hf")
        import_extra("scipy", extra="hf")
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

        config: Any = transformers.Mask2FormerConfig(
            num_labels=num_classes,
            train_num_points=points,
            oversample_ratio=oversample,
            importance_sample_ratio=importance,
            no_object_weight=no_object,
            class_weight=match["classes"],
            mask_weight=match["mask"],
            dice_weight=match["dice"],
        )
        self.num_classes = num_classes
        self.layer = Mask2FormerLoss(config, weight_dict={})

    def forward(self, classes: Sequence[Tensor], masks: Sequence[Tensor], labels: Classes) -> dict[str, Scalar]:
        """The sums over the layers by name.

        Args:
            classes: a layer each, (B, Q, K + 1) logits.
            masks: a layer each, (B, Q, h, w) logits.
            labels: the class of every pixel.
        """
        present = [[label for label in image.unique().tolist() if label < self.num_classes] for image in labels]
        shown = [number for number, found in enumerate(present) if found]
        if not shown:  # attached to the graph, or the processes of a run would wait for each other's gradients
            return dict.fromkeys(NAMES, torch.stack([logits.sum() for logits in (*classes, *masks)]).sum() * 0.0)
        class_labels = [torch.tensor(present[number], device=labels.device) for number in shown]
        mask_labels = [(labels[n] == c[:, None, None]).float() for n, c in zip(shown, class_labels, strict=True)]
        with torch.autocast(labels.device.type, enabled=False):
            layers = [
                self.layer(mask[shown].float(), logits[shown].float(), mask_labels, class_labels)
                for logits, mask in zip(classes, masks, strict=True)
            ]
        return {name: torch.stack([layer[theirs] for layer in layers]).sum() for name, theirs in NAMES.items()}
