"""Instance clustering of CLAM: tiles that attention picks are told apart from those that it passes over."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.models.bag import SlideEncoding


class InstanceClustering(nn.Module):
    """A classifier of tiles for each class, on pseudo-labels by attention (Lu et al., Nat. Biomed. Eng. 2021).

    Of a bag of class y, the k tiles of the highest attention are of the class and the k of the lowest are not, for the
    classifier of y. Classes exclude each other: for the classifier of any other class the k highest are not of it. The
    loss is the smooth top-1 SVM (Berrada et al., ICLR 2018) with temperature 1 and margin 1, which for two scores is
    log(1 + exp(1 + s_wrong - s_right)), its mean over the tiles of a classifier, summed over the classes of a bag and
    divided by their number.

    Args:
        width: W of a tile.
        n_classes: exclusive classes of a bag.
        n_tiles: k; of a bag with fewer than 2 k tiles half of them.
    """

    def __init__(self, width: int, n_classes: int, *, n_tiles: int = 8) -> None:
        super().__init__()
        self.n_tiles, self.n_classes = n_tiles, n_classes
        self.classifiers = nn.Linear(width, 2 * n_classes)

    def forward(self, encoding: SlideEncoding, label: Tensor) -> Tensor:
        """Mean over bags with a label and at least two tiles; 0 where there is none.

        Args:
            encoding: of B bags.
            label: float [B], class 0 .. n_classes - 1; NaN where there is none.
        """
        features = encoding.tiles.split(encoding.tiles.features)
        weights = encoding.tiles.split(encoding.attention.mean(1).detach())
        losses = []
        for tiles, weight, of_bag in zip(features, weights, label.tolist(), strict=True):
            k = min(self.n_tiles, len(tiles) // 2)
            if of_bag != of_bag or k == 0:
                continue
            order = weight.argsort(descending=True, stable=True)
            losses.append(self._of_bag(tiles[order[:k]], tiles[order[-k:]], int(of_bag)))
        # Classifiers that no bag asked take part with a gradient of 0: every rank then has the same parameters in use.
        idle = 0.0 * sum(p.sum() for p in self.parameters())
        return torch.stack(losses).mean() + idle if losses else torch.as_tensor(idle)

    def _of_bag(self, highest: Tensor, lowest: Tensor, label: int) -> Tensor:
        """highest, lowest: [k, W]."""
        scores = self.classifiers(torch.cat([highest, lowest])).float().unflatten(1, (self.n_classes, 2))
        k, total = len(highest), scores.new_zeros(())
        for of_class in range(self.n_classes):
            of_tiles = scores[:, of_class] if of_class == label else scores[:k, of_class]
            belongs = torch.zeros(len(of_tiles), dtype=torch.bool, device=scores.device)
            belongs[:k] = of_class == label
            total = total + smooth_svm(of_tiles, belongs)
        return total / self.n_classes


def smooth_svm(scores: Tensor, positive: Tensor) -> Tensor:
    """Smooth top-1 SVM of two classes, temperature and margin 1; scores [n, 2] (not, of it), positive bool [n]."""
    difference = torch.where(positive, scores[:, 0] - scores[:, 1], scores[:, 1] - scores[:, 0])
    return nn.functional.softplus(1.0 + difference).mean()
