"""What latents say about the images behind them: neighbours, ways from one to another, maps of two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.figures import new_figure, save_figure
from common.images import save_table


class NormalMap(NamedTuple):
    """The linear map that takes one normal distribution to another and moves points least on the way.

    With covariances A and B its matrix is A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2) (Olkin & Pukelsheim 1982,
    doi:10.1016/0024-3795(82)90112-4), and its inverse is the map from B to A.
    """

    matrix: np.ndarray  # float64 [d, d], symmetric
    source: np.ndarray  # float64 [d]: the mean that is left
    target: np.ndarray  # float64 [d]: the mean that is reached

    @classmethod
    def between(cls, source: np.ndarray, target: np.ndarray, *, floor: float = 0.0) -> NormalMap:
        """Return the map from points [n, d], latents or colours, to others, [m, d].

        Where n is not much more than d a covariance is mostly chance: of each, d / (n + d) gives way to the same
        variance in all directions (after Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4). `floor` is a variance
        that is added to the source's in all directions, so that what hardly varies is not stretched into something.
        """

        def covariance(points: np.ndarray) -> np.ndarray:
            count, dimensions = points.shape
            measured = np.atleast_2d(np.cov(points, rowvar=False, bias=True))
            even = np.eye(dimensions) * max(np.trace(measured) / dimensions, 1e-12)
            return measured + (even - measured) * dimensions / (count + dimensions)

        own = covariance(source) + floor * np.eye(source.shape[1])
        root, inverse = _symmetric_power(own, 0.5), _symmetric_power(own, -0.5)
        matrix = inverse @ _symmetric_power(root @ covariance(target) @ root, 0.5) @ inverse
        return cls(matrix, source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64))

    def there(self, points: np.ndarray) -> np.ndarray:
        """Map points [n, d], to float32."""
        return ((points - self.source) @ self.matrix + self.target).astype(np.float32)

    def back(self, points: np.ndarray) -> np.ndarray:
        """Undo `there`."""
        return (np.linalg.solve(self.matrix, (points - self.target).T).T + self.source).astype(np.float32)


def _symmetric_power(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.maximum(values, 1e-30) ** power @ vectors.T


def nearest(latents: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` latents nearest to each query by Euclidean distance, nearest first.

    Args:
        latents: [n, d], n at least `count`.
        queries: [q, d].

    Returns:
        int64 [q, count].
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count).fit(latents).kneighbors(queries, return_distance=False)


def nearest_neighbour_purity(latents: np.ndarray, labels: np.ndarray, neighbours: int = 10) -> float:
    """Return the mean share of each latent's nearest others that are of its class; 0.1 by chance for ten even classes.

    Args:
        latents: [n, d]; where n is not above `neighbours`, all others are asked.
        labels: class numbers [n].
    """
    count = min(neighbours, len(latents) - 1)
    found = nearest(latents, latents, count + 1)
    others = found != np.arange(len(latents))[:, None]
    others[others.all(1), -1] = False  # where many are equal, a latent may not be among its own nearest
    return float((labels[found][others].reshape(-1, count) == labels[:, None]).mean())


def great_circle(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Return latents [steps, d] on the way from `start` [d] to `end`, both included.

    Normal latents lie near a sphere, which a straight line would leave (White 2016, arXiv:1609.04468, section 2.1).

    Raises:
        InputError: there are fewer than 2 steps, or both ends lie in one direction from 0.
    """
    cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
    if steps < 2 or cosine > 1 - 1e-6:
        raise InputError(f"a walk needs two different ends and 2 steps or more, got {steps} steps, cosine {cosine:.3g}")
    angle, along = np.arccos(cosine), np.linspace(0, 1, steps)[:, None]
    return ((np.sin((1 - along) * angle) * start + np.sin(along * angle) * end) / np.sin(angle)).astype(start.dtype)


def save_arithmetic(
    latents: dict[str, np.ndarray],
    draw: Callable[[np.ndarray], np.ndarray],
    arithmetic: Callable[..., np.ndarray],
    path: Path,
) -> Path:
    """Write a row for each of a, b and c, its images and, last, their mean; below what they come to, also with noise.

    As figure 7 of Radford et al. 2016, arXiv:1511.06434: the noise is uniform up to 0.25.

    Args:
        latents: captions and latents [n, d] of a, b and c.
        draw: latents [n, d] -> images, uint8 [n, h, w, 1 or 3].
        arithmetic: latents of a, b and c -> one latent [d].
        path: of the picture.
    """
    rows = {caption: draw(np.vstack([some, some.mean(axis=0)])) for caption, some in latents.items()}
    results = np.tile(arithmetic(*latents.values()), (len(next(iter(rows.values()))), 1))
    results[1:] += np.random.default_rng(0).uniform(-0.25, 0.25, results[1:].shape)
    return save_table(rows | {"a - b + c": draw(results)}, path, zoom=2)


def tsne(latents: np.ndarray, seed: int) -> np.ndarray:
    """Return a map of latents [n, d], n at least 3, on which neighbours stay neighbours: float32 [n, 2].

    van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008; scikit-learn's implementation. Distances
    between far groups, and the sizes of groups, mean nothing.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(latents) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(np.asarray(latents, np.float32))


def save_scatter(points: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], path: Path, title: str = "") -> Path:
    """Write points of the plane [n, 2], coloured by their class numbers [n], as a PNG with the classes' names."""
    figure = new_figure(7.0, 6.0)
    import matplotlib

    axes = figure.add_subplot()
    many = len(classes) > 10
    colours = matplotlib.colormaps["gist_rainbow" if len(classes) > 20 else "tab20" if many else "tab10"]
    for number, name in enumerate(classes):
        chosen = points[labels == number]
        colour = colours(number / max(1, len(classes) - 1)) if len(classes) > 20 else colours(number)
        axes.scatter(chosen[:, 0], chosen[:, 1], s=max(3.0, min(18.0, 12000 / len(points))), color=colour, label=name,
                     linewidths=0, alpha=0.8)  # fmt: skip
    axes.set_aspect("equal", "datalim")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    if 1 < len(classes) <= 40:
        legend = figure.legend(loc="outside right center", markerscale=2, frameon=False, fontsize=9, ncols=1 + many)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return save_figure(figure, path)
