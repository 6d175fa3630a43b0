"""Principal components of images: what a linear code of the same length as a network's latents gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdoml_dist.errors import UsageError


@dataclass(frozen=True)
class PrincipalComponents:
    """The best linear code of some images.

    Attributes
    ----------
    mean : numpy.ndarray
        Shape (numbers,), float32.
    components : numpy.ndarray
        Orthonormal rows, shape (components, numbers), float32, of falling variance.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, images: np.ndarray, number: int) -> PrincipalComponents:
        """Return the components of largest variance.

        Images are far longer than there are many, so the eigenvectors are those of the products between images: memory is
        that of the images, once more for the components.

        Parameters
        ----------
        images : numpy.ndarray
            Float32, shape (images, ...); centred in place.
        number : int
            Components wanted; there are at most one fewer than images.

        Raises
        ------
        UsageError
            If there are fewer than two images, or no component is asked for.
        """
        rows = images.reshape(len(images), -1)
        if len(rows) < 2 or number < 1:
            raise UsageError(f"{len(rows)} images have no {number} principal components.")
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        rows -= mean
        values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        # Rounding leaves the last of them, which belongs to the mean, near 0 instead of at it.
        order = np.argsort(values)[::-1][: min(number, len(rows) - 1)]
        order = order[values[order] > values.max() * 1e-9]
        found = (vectors[:, order] / np.sqrt(values[order])).astype(np.float32).T @ rows
        return cls(mean, found)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Return what the code keeps of images of shape (images, ...)."""
        rows = images.reshape(len(images), -1) - self.mean
        kept: np.ndarray = self.mean + (rows @ self.components.T) @ self.components
        return kept.reshape(images.shape)
