"""Analyse latents: nearest neighbours, label agreement, interpolation, arithmetic, t-SNE, scatter plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.images.figures import new_figure, save_figure
from common.images.writing import save_table
from common.system.files import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class NormalMap(NamedTuple):
    """The optimal transport map between two normal distributions.

    Of all maps between them, it moves points by the smallest mean squared distance. The map is affine. For covariances
    A and B, its matrix is A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2) (Olkin & Pukelsheim 1982,
    doi:10.1016/0024-3795(82)90112-4). Its inverse is the map from B to A.
    """

    matrix: np.ndarray  # float64 [d, d], symmetric
    source: np.ndarray  # float64 [d], the mean of the source
    target: np.ndarray  # float64 [d], the mean of the target

    @classmethod
    def between(cls, source: np.ndarray, target: np.ndarray, *, floor: float = 0.0) -> NormalMap:
        """Fit normal distributions to two sets of points, such as latents or colours; return the map between the two.

        The sample covariance of a small set is unreliable. It is therefore shrunk towards a multiple of the identity
        matrix, with weight d / (n + d) (after Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4).

        Args:
            source: points [n, d].
            target: points [m, d].
            floor: variance added to the source in all directions. It keeps the map from amplifying noise in directions
                with almost no variance.
        """

        def covariance(points: np.ndarray) -> np.ndarray:
            count, dimensions = points.shape
            measured = np.atleast_2d(np.cov(points, rowvar=False, bias=True))
            even = np.eye(dimensions) * max(np.trace(measured) / dimensions, 1e-12)
            return measured + (even - measured) * dimensions / (count + dimensions)

        floored = covariance(source) + floor * np.eye(source.shape[1])
        root, inverse = _symmetric_power(floored, 0.5), _symmetric_power(floored, -0.5)
        matrix = inverse @ _symmetric_power(root @ covariance(target) @ root, 0.5) @ inverse
        return cls(matrix, source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64))

    def there(self, points: np.ndarray) -> np.ndarray:
        """Map points [n, d] from the source to the target. The result is float32."""
        return ((points - self.source) @ self.matrix + self.target).astype(np.float32)

    def back(self, points: np.ndarray) -> np.ndarray:
        """Map points [n, d] from the target to the source. This is the inverse of `there`."""
        return (np.linalg.solve(self.matrix, (points - self.target).T).T + self.source).astype(np.float32)


def _symmetric_power(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.maximum(values, 1e-30) ** power @ vectors.T


def nearest(latents: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` latents nearest to each query by Euclidean distance, nearest first.

    Args:
        latents: the latents to search, [n, d].
        queries: query latents [q, d].
        count: number of neighbours, from 1 to n.

    Returns:
        Indices, int64 [q, count].

    Raises:
        InputError: `count` is out of range.
    """
    from sklearn.neighbors import NearestNeighbors

    if not 1 <= count <= len(latents):
        raise InputError(f"count must be from 1 to {len(latents)} (the number of images to search), got {count}")
    return NearestNeighbors(n_neighbors=count).fit(latents).kneighbors(queries, return_distance=False)


def knn_agreement(latents: np.ndarray, labels: np.ndarray, k: int = 10) -> float:
    """Return the k-NN label agreement of latents.

    For each latent, this is the fraction of its k nearest neighbours that have the same label. The result is the mean
    over all latents. For ten classes of equal size, it is about 0.1 if latents and labels are independent.

    Args:
        latents: latents [n, d], n at least 2.
        labels: integer labels [n].
        k: number of neighbours, limited to n - 1.
    """
    k = min(k, len(latents) - 1)
    found = nearest(latents, latents, k + 1)
    others = found != np.arange(len(latents))[:, None]
    others[others.all(1), -1] = False  # with duplicate latents, the query itself may be missing from `found`
    return float((labels[found][others].reshape(-1, k) == labels[:, None]).mean())


def great_circle(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Return latents [steps, d] from `start` [d] to `end` [d], inclusive, by spherical linear interpolation (slerp).

    Samples of a normal distribution in many dimensions lie near a sphere. A straight line between two samples leaves
    the sphere, but a great circle does not (White 2016, arXiv:1609.04468, section 2.1).

    Raises:
        InputError: `steps` is less than 2, or the endpoints have the same direction.
    """
    cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
    if steps < 2 or cosine > 1 - 1e-6:
        right = "an interpolation needs at least 2 steps, and endpoints with different directions"
        raise InputError(f"{right}; got {steps} steps and a cosine similarity of {cosine:.3g}")
    angle, along = np.arccos(cosine), np.linspace(0, 1, steps)[:, None]
    return ((np.sin((1 - along) * angle) * start + np.sin(along * angle) * end) / np.sin(angle)).astype(start.dtype)


def save_arithmetic(
    latents: dict[str, np.ndarray],
    decode: Callable[[np.ndarray], np.ndarray],
    arithmetic: Callable[..., np.ndarray],
    path: Path,
) -> Path:
    """Write an image grid of latent arithmetic, with one row each for `a`, `b`, `c` and `a - b + c`.

    The rows of `a`, `b` and `c` show the decoded latents and, in the last column, the image decoded from their mean.
    The last row starts with the image decoded from `a - b + c`. Its other images are decoded from the same latent with
    uniform noise in [-0.25, 0.25] (Radford et al. 2016, arXiv:1511.06434, figure 7).

    Args:
        latents: the latents [n, d] of `a`, `b` and `c`, keyed by the captions of their rows.
        decode: latents [n, d] -> images, uint8 [n, height, width, 1 or 3].
        arithmetic: latents of `a`, `b` and `c` -> one latent [d].
        path: the file to write.
    """
    rows = {caption: decode(np.vstack([some, some.mean(axis=0)])) for caption, some in latents.items()}
    results = np.tile(arithmetic(*latents.values()), (len(next(iter(rows.values()))), 1))
    results[1:] += np.random.default_rng(0).uniform(-0.25, 0.25, results[1:].shape)
    return save_table(rows | {"a - b + c": decode(results)}, path, zoom=2)


def tsne(latents: np.ndarray, seed: int) -> np.ndarray:
    """Embed latents [n, d], n at least 3, in two dimensions by t-SNE: float32 [n, 2].

    t-SNE keeps neighbours close. The sizes of clusters and the distances between them have no meaning.
    The implementation is scikit-learn's. See van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(latents) - 1) / 3)
    return TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(np.asarray(latents, np.float32))


def save_latents(
    latents: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    path: Path,
    title: str = "",
    seed: int = 0,
    images: np.ndarray | None = None,
) -> Path:
    """Write a scatter plot of latents, coloured by class.

    If the latents have more than two dimensions, they are reduced to two by t-SNE.

    Args:
        latents: latents [n, d], d at least 2.
        labels: integer labels [n].
        classes: names of the classes, for the legend.
        path: the file to write.
        title: the title of the plot; " (t-SNE)" is appended if t-SNE is used.
        seed: random seed of t-SNE.
        images: the images with these latents, uint8 [n, h, w, 1 or 3]; if given, they are shown where there is space.
    """
    if latents.shape[1] > 2 and len(latents) > 2:
        latents, title = tsne(latents, seed), f"{title} (t-SNE)"
    return save_scatter(latents[:, :2], labels, classes, path, title, images)


def save_scatter(
    points: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    path: Path,
    title: str = "",
    images: np.ndarray | None = None,
) -> Path:
    """Write a scatter plot of points [n, 2], coloured by their integer labels [n], with a legend.

    With `images`, uint8 [n, h, w, 1 or 3], some points are shown as images. Bright pixels of greyscale images have the
    colour of the class, and black pixels are transparent.
    """
    width, height = np.ptp(points[:, :2], axis=0) + 1e-6
    figure = new_figure(7.0, 6.0) if images is None else new_figure(9.0, float(np.clip(8.4 * height / width, 4, 9)))
    import matplotlib

    axes = figure.add_subplot()
    many = len(classes) > 10
    numbers = np.arange(len(classes))
    if len(classes) > 20:
        colours = matplotlib.colormaps["gist_rainbow"](numbers / (len(classes) - 1))
    else:
        colours = matplotlib.colormaps["tab20" if many else "tab10"](numbers)
    size = max(3.0, min(18.0, 12000 / len(points)))
    for number, name in enumerate(classes):
        chosen = points[labels == number] if images is None else np.empty((0, 2))  # for the legend
        axes.scatter(chosen[:, 0], chosen[:, 1], size, color=colours[number], label=name, linewidths=0, alpha=0.8)
    axes.set_title(title, fontsize=11, parse_math=False)
    if images is None:
        axes.set_aspect("equal", "datalim")
        axes.spines[["top", "right"]].set_visible(False)
    else:
        show_at(axes, points, images, colours[labels])
    if 1 < len(classes) <= 40:
        scale = 2 * (18 / size) ** 0.5 if images is not None else 2
        legend = figure.legend(loc="outside right center", markerscale=scale, frameon=False, fontsize=9, ncols=1 + many)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return save_figure(figure, path)


def show_at(axes: Axes, points: np.ndarray, images: np.ndarray, colours: np.ndarray) -> None:
    """Show images at points [n, 2] of a plot, in the order of the points, unless they would cover an earlier image.

    Args:
        axes: the plot.
        points: the centres of the images.
        images: uint8 [n, h, w, 1 or 3].
        colours: a colour for each greyscale image, RGBA [n, 4] in [0, 1].
    """
    side = max(np.ptp(points, axis=0).max() / 28, 1e-6)
    shown = np.empty((0, 2))
    for point, image, colour in zip(points, images, colours, strict=True):
        if len(shown) and np.abs(shown - point).max(axis=1).min() < 0.65 * side:
            continue
        shown = np.vstack([shown, point])
        pixels = image / 255
        if image.shape[-1] == 1:
            pixels = np.concatenate([np.tile(colour[:3], (*image.shape[:2], 1)), pixels], axis=-1)
        (left, bottom), (right, top) = point - side / 2, point + side / 2
        axes.imshow(pixels, extent=(left, right, bottom, top), interpolation="bilinear", aspect="equal")
    low, high = points.min(axis=0) - 0.6 * side, points.max(axis=0) + 0.6 * side
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.axis("off")
