"""What the gradients of several losses have in common, prompt by prompt; numpy, no model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
AFFECTED = 0.5  # a token counts as affected if its gradient differs by more than this share of the larger of the two


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval: 1.96 bootstrap standard deviations over prompts to each side."""

    value: float
    low: float
    high: float


class Gram(NamedTuple):
    """Inner products of gradients, one a loss and prompt: all that norms, cosines and their spread depend on.

    Attributes:
      products: float64 [R, P, R, P], ⟨g_{r,p}, g_{s,q}⟩; the gradient of loss r is Σ_p g_{r,p}.
    """

    products: np.ndarray

    @classmethod
    def of(cls, gradients: np.ndarray) -> Gram:
        """From [R, P, N] vectors."""
        losses, prompts, _ = gradients.shape
        flat = gradients.reshape(losses * prompts, -1).astype(np.float64)
        return cls((flat @ flat.T).reshape(losses, prompts, losses, prompts))

    def norms(self) -> np.ndarray:
        """‖g_r‖, [R]."""
        return np.sqrt(np.einsum("rprq->r", self.products))

    def noise(self) -> np.ndarray:
        """√(trace of the bootstrap covariance of g_r) / ‖g_r‖, [R]: noise over signal if other prompts were drawn.

        The bootstrap draws P prompts with replacement. The covariance of their sum is Σ_p (g_p - ḡ)(g_p - ḡ)ᵀ with ḡ
        the mean over prompts; its trace needs no drawing.
        """
        prompts = self.products.shape[1]
        squares = np.einsum("rprp->r", self.products)
        total = np.einsum("rprq->r", self.products)
        variance = np.maximum(squares - total / prompts, 0)
        return np.sqrt(np.divide(variance, total, out=np.full_like(total, np.nan), where=total > 0))

    def cosines(self, *, seed: int = 0) -> list[Interval]:
        """Cosine of each g_r with g_0, and its interval within [-1, 1]; nan where one of the two is zero.

        The spread of the draws is used, not their percentiles: a prompt drawn twice adds up with itself, which moves
        the drawn cosines to one side.
        """
        prompts = self.products.shape[1]
        counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
        drawn = self._cosines(counts.astype(np.float64))
        point = self._cosines(np.ones((1, prompts)))[0]
        reach = 1.96 * np.std(np.where(np.isnan(point), 0, np.nan_to_num(drawn)), axis=0)
        low, high = np.maximum(point - reach, -1), np.minimum(point + reach, 1)
        return [Interval(*map(float, row)) for row in zip(point, low, high, strict=True)]

    def _cosines(self, counts: np.ndarray) -> np.ndarray:
        """[resamples, R] for how often each prompt was drawn, [resamples, P]."""
        with_first = np.einsum("np,rpq,nq->nr", counts, self.products[:, :, 0], counts, optimize=True)
        own = np.stack([self.products[r, :, r] for r in range(self.products.shape[0])])
        squares = np.maximum(np.einsum("np,rpq,nq->nr", counts, own, counts, optimize=True), 0)
        scale = np.sqrt(squares * squares[:, :1])
        return np.divide(with_first, scale, out=np.full_like(scale, np.nan), where=scale > 0)


def affected(gradient: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """bool [B, T]: tokens whose gradient is not the reference's times one number for all tokens.

    The number is the one of least squares, so that a loss that only scales another one affects no token.
    """
    gradient, reference = np.where(mask, gradient, 0.0), np.where(mask, reference, 0.0)
    size = float(np.sum(reference * reference))
    scaled = reference * (float(np.sum(gradient * reference)) / size if size > 0 else 0.0)
    larger = np.maximum(np.abs(gradient), np.abs(scaled))
    return mask & (np.abs(gradient - scaled) > AFFECTED * larger)


class Bins(NamedTuple):
    """A number for each stretch of positions or lengths, in tokens.

    Attributes:
      edges: ends of the stretches, one more than there are values; the last is included.
      values: share of the tokens there; nan without tokens.
      tokens: how many tokens there are.
    """

    edges: np.ndarray
    values: np.ndarray
    tokens: np.ndarray


def by_number(where: np.ndarray, number: np.ndarray, mask: np.ndarray, bins: int = 8) -> Bins:
    """The share of tokens with ``where`` True among those of a like number (a position, a length), [B, T] each.

    The stretches hold about as many tokens each.
    """
    of_tokens = number[mask]
    if of_tokens.size == 0:
        return Bins(np.zeros(1), np.zeros(0), np.zeros(0))
    edges = np.unique(np.quantile(of_tokens, np.linspace(0, 1, bins + 1), method="nearest"))
    if edges.size == 1:
        edges = np.array([edges[0], edges[0] + 1])
    place = np.clip(np.searchsorted(edges, of_tokens, side="right") - 1, 0, edges.size - 2)
    tokens = np.bincount(place, minlength=edges.size - 1).astype(np.float64)
    hits = np.bincount(place, weights=where[mask], minlength=edges.size - 1)
    return Bins(edges, np.divide(hits, tokens, out=np.full_like(tokens, np.nan), where=tokens > 0), tokens)
