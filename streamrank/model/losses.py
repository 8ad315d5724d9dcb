"""What a Ranker is held to: the order of a list, and the probability of each candidate.

One set of scores serves both.  Alone, a score is log-odds, so that its sigmoid is a probability;
among the scores of a list, a candidate's share of the probabilities says how likely the feedback
was on this one.  The list-wise loss learns the order from the lists that got feedback; the
pointwise loss learns the level from all lists, also from those that nobody clicked on.  Both are
least at the same scores, so neither has to give way.

What is learned is the probability within the lists that are learned from.  Where only lists with
feedback were logged, it is that of a list of which something is clicked on.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

POINTWISE = 0.3
"""Weight of the pointwise loss, in nats a list."""
NOWHERE = -1e4
"""Log-share of a candidate that does not exist."""


def loss_of(
    scores: Tensor,
    labels: Tensor,
    there: Tensor,
    *,
    weights: Tensor | None = None,
    rates: Tensor | None = None,
) -> Tensor:
    """Return what a batch of lists costs: order and probability, all heads together.

    Args:
        scores: Log-odds, (B, C, heads).
        labels: 1 or 0, the same shape; lists without any 1 are welcome.
        there: Which candidates exist, (B, C).
        weights: How much a label on each candidate counts, the same shape as the scores; for
            labels that are rare.  The scores stay log-odds of what is, whatever the weights.
        rates: With what probability each candidate would be in the list, had it no label,
            (B, C); for lists whose other candidates are only a sample.

    Returns:
        A scalar.

    References:
        Bai et al., CIKM 2023, "Regression compatible listwise objectives for calibrated ranking
        with binary relevance".

    Examples:
        >>> import torch
        >>> there = torch.tensor([[True, True, False]])
        >>> labels = torch.tensor([[[1.0], [0.0], [0.0]]])
        >>> better = loss_of(torch.tensor([[[1.0], [-1.0], [0.0]]]), labels, there)
        >>> bool(better < loss_of(torch.zeros(1, 3, 1), labels, there))
        True
    """
    return by_head(scores, labels, there, weights=weights, rates=rates).sum()


def by_head(
    scores: Tensor,
    labels: Tensor,
    there: Tensor,
    *,
    weights: Tensor | None = None,
    rates: Tensor | None = None,
) -> Tensor:
    """Return what each head costs, (heads,): `loss_of` is their sum.

    Args:
        scores: As `loss_of` takes it.
        labels: As `loss_of` takes it.
        there: As `loss_of` takes it.
        weights: As `loss_of` takes it.
        rates: As `loss_of` takes it.
    """
    return listwise(scores, labels, there, weights, rates) + POINTWISE * pointwise(
        scores, labels, there, weights, rates
    )


def listwise(
    scores: Tensor,
    labels: Tensor,
    there: Tensor,
    weights: Tensor | None = None,
    rates: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of the shares by head, the mean over the lists that it can order.

    A list counts where some of its candidates have the label and others do not.

    Args:
        scores: As `loss_of` takes it.
        labels: As `loss_of` takes it.
        there: As `loss_of` takes it.
        weights: As `loss_of` takes it.
        rates: As `loss_of` takes it.

    References:
        Cao et al., ICML 2007, "Learning to rank: from pairwise approach to listwise approach".
        Menon et al., ICLR 2021, "Long-tail learning via logit adjustment" (the weights' offset).
    """
    chances = functional.logsigmoid(scores)
    if weights is not None:
        chances = chances + weights.log()
    if rates is not None:
        chances = chances - rates.log()[..., None] * (1 - labels)  # each stands for 1 / rate
    shares = chances.masked_fill(~there[..., None], NOWHERE).log_softmax(1)
    worth = labels if weights is None else labels * weights
    wanted = labels.sum(1)  # (B, heads)
    counted = ((wanted > 0) & (wanted < there.sum(1, keepdim=True))) / wanted.clamp(min=1)
    costs = (-(worth * shares).sum(1) * counted).sum(0)
    return costs / (worth.sum(1) * counted).sum(0).clamp(min=1e-9)


def pointwise(
    scores: Tensor,
    labels: Tensor,
    there: Tensor,
    weights: Tensor | None = None,
    rates: Tensor | None = None,
) -> Tensor:
    """Return the negative log likelihood of the labels by head, in nats a list, the mean of lists.

    A label that counts w times is like odds that are w times as high: to learn with weights,
    and still the odds that are, log w is added to the scores first.  Where of the candidates
    without the label only some are there, odds are as many times as high; likewise.

    Args:
        scores: As `loss_of` takes it.
        labels: As `loss_of` takes it.
        there: As `loss_of` takes it.
        weights: As `loss_of` takes it.
        rates: As `loss_of` takes it.

    References:
        King and Zeng, Political Analysis 2001, "Logistic regression in rare events data".
    """
    if weights is not None:
        scores = scores + weights.log()
    if rates is not None:
        scores = scores - rates.log()[..., None]
    each = functional.binary_cross_entropy_with_logits(
        scores, labels, reduction="none", pos_weight=weights
    )
    return (each * there[..., None]).sum(1).mean(0)
