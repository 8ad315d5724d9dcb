"""The Ranker: a Transformer over what the user did, candidates that look at it one by one.

    history_*  ── Step ── Encoder (transformers) ─────────┐ encoded once per list
                                                          ▼
    candidate_*, context_* ── Dense (bins), Content ── Attention ── Perceptron ──┐
                    │                                                            ▼
                    └── linear skip ──────────────────────────────────────────── + ── scores

A candidate's score depends on its own features, the list's and the history, never on the other
candidates that were sent.  Padding is told by `history_types == 0` and `candidate_items == 0`.
Unknown items and users have no special case: ids and words are hashed into buckets in the graph.

Shapes: B lists, H steps, C candidates, T words, F dense features of a candidate and G of the
list, K bins of all features together, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, BertConfig, BertModel

from streamrank.features import inputs
from streamrank.features.inputs import Array
from streamrank.features.schema import Schema

Size = Literal["small", "base", "large"]
PLACES = 12
"""How far apart in the list a candidate and a step's item are told apart exactly."""
SPREAD = 0.3
"""Of fresh vectors of ids and words: far enough apart to be told from the first step on."""
FAMILIAR = 100
"""Lists that must hold an id or word before its vector counts by half."""
ATTENTION = "streamrank"
"""Name under which `transformers` finds how a history attends to itself."""
HIDDEN = -1e4
"""Added to what attention must not see."""
LONGEST = 256
"""Steps of history with a position of their own; older ones share the last."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the shape of a Ranker follows from.

    Attributes:
        heads: What is scored: the label, and the conversion where there is one.
        types: Interaction types, any other, and 0 for padding.
        numbers: Dense features of a candidate.
        context: Dense features of a list.
        width: Width of the encoder, D.
        layers: Layers of the encoder.
        attention: Heads of every attention; each is `width / attention` wide.
        hidden: Width of the perceptron.
        buckets: Rows of the table of hashed ids, and of the table of hashed words.
        bins: Bins of a dense feature, at most.
        dropout: Share of hidden units dropped in training.
        feature_dropout: Share of the dense features dropped in training.
        item_dropout: Share of the ids dropped in training, so that content has to do as well.
    """

    heads: tuple[str, ...]
    types: int
    numbers: int
    context: int
    width: int = 32
    layers: int = 1
    attention: int = 4
    hidden: int = 64
    buckets: int = 1 << 14
    bins: int = 12
    dropout: float = 0.2
    feature_dropout: float = 0.1
    item_dropout: float = 0.3


SIZES: Mapping[Size, Mapping[str, int]] = {
    "small": {},
    "base": {"width": 64, "layers": 2, "hidden": 128, "buckets": 1 << 16},
    "large": {"width": 128, "layers": 4, "hidden": 256, "buckets": 1 << 18},
}


def configure(schema: Schema, size: Size = "small") -> Configuration:
    """Return the configuration that fits a schema.

    Args:
        schema: Which fields and interaction types there are.
        size: How large.

    Examples:
        >>> configure(Schema(conversion="buy", interactions=("click", "buy"))).heads
        ('click', 'buy')
    """
    heads = (schema.label,) if schema.conversion is None else (schema.label, schema.conversion)
    return Configuration(
        heads=heads,
        types=len(schema.interactions) + 2,
        numbers=len(inputs.features(schema)),
        context=len(inputs.context_features(schema)),
        **SIZES[size],
    )


class Bins(nn.Module):
    """Piecewise-linear encoding of numbers: how far each one reaches into each of its bins.

    The component of a bin is 0 below it, 1 above it, and linear in between.  The edges are
    quantiles of what was learned from; they travel with the weights.

    Args:
        feature: Which feature each bin is of, (K,).
        low: Where each bin begins, (K,).
        scale: One over its width, (K,).

    References:
        Gorishniy, Rubachev, Babenko, NeurIPS 2022, "On embeddings for numerical features in
        tabular deep learning".
    """

    def __init__(self, feature: Tensor, low: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.feature: Tensor
        self.low: Tensor
        self.scale: Tensor
        self.register_buffer("feature", feature)
        self.register_buffer("low", low)
        self.register_buffer("scale", scale)

    def forward(self, values: Tensor) -> Tensor:
        """Encode (B, F, N) as (B, K, N)."""
        # By rows: to gather single numbers took longer than all the rest of the model.
        spread = values.index_select(1, self.feature)  # (B, K, N)
        return ((spread - self.low[:, None]) * self.scale[:, None]).clamp(0.0, 1.0)


def fit_bins(values: Array, bins: int) -> Bins:
    """Return the bins that fit examples, shape (N, F); at most `bins` a feature."""
    found = [edges(column, bins) for column in values.T]
    feature = np.repeat(np.arange(len(found)), [len(one) - 1 for one in found])
    low = np.concatenate([one[:-1] for one in found])
    scale = np.concatenate([1 / np.diff(one) for one in found])
    return Bins(torch.from_numpy(feature), torch.from_numpy(low), torch.from_numpy(scale))


def edges(values: Array, bins: int) -> Array:
    """Return the edges of at most `bins` bins of a feature, rising, float32.

    A value that more examples share than any other (0 for "never") is one edge; the quantiles
    of all the rest are the others, so that a rare quantity has as fine bins as a common one.

    Examples:
        >>> edges(np.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]), 3).tolist()
        [0.0, 1.0, 2.0, 4.0]
    """
    distinct, counts = np.unique(values.astype(np.float32), return_counts=True)
    if len(distinct) > bins + 1:
        most = distinct[counts.argmax()]
        rest = np.repeat(distinct, counts)[np.repeat(distinct != most, counts)]
        # Edges are values that occurred, as far apart in rank as can be.
        places = np.linspace(0, len(rest) - 1, bins).astype(np.int64)
        distinct = np.unique(np.append(rest[places], most))
    least = 1e-5 * max(1e-5, float(distinct[-1] - distinct[0]))  # no bin so narrow that it jumps
    found: Array = distinct[np.diff(distinct, prepend=-np.inf) > least]
    return found


class Buckets(nn.Module):
    """A table of vectors for hashed ids or words; 0, for nothing, is the zero vector.

    A vector counts for as much as its word was seen, n / (n + 100): one that training never saw
    says nothing instead of anything, and one seen a few times cannot be learned by heart.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = rows
        self.table = nn.Embedding(rows, width, padding_idx=0)
        nn.init.normal_(self.table.weight[1:], std=SPREAD)
        self.trust: Tensor
        self.register_buffer("trust", torch.zeros(rows, 1))

    def fit(self, hashes: Array) -> None:
        """Set how far each vector is trusted, from each hash as often as it was seen."""
        places = self.place(torch.from_numpy(hashes))
        counts = torch.bincount(places, minlength=self.rows).float()
        counts[0] = 0
        self.trust.copy_((counts / (counts + FAMILIAR))[:, None])

    def place(self, hashes: Tensor) -> Tensor:
        """Return the row of each hash, which is not negative."""
        return hashes.sign() * (1 + hashes % (self.rows - 1))

    def forward(self, hashes: Tensor) -> Tensor:
        """Look up int64 hashes (...) as (..., D)."""
        return self.at(self.place(hashes))

    def at(self, places: Tensor) -> Tensor:
        """Look up rows (...) as (..., D)."""
        if self.training:
            vectors: Tensor = self.table(places) * functional.embedding(places, self.trust)
            return vectors
        # A constant of the graph, which ONNX Runtime works out when it loads it.
        return functional.embedding(places, self.table.weight * self.trust)


class Steps(nn.Module):
    """One vector a step: which item, what was done, where it is in the list, and when."""

    def __init__(self, config: Configuration, items: Buckets, words: Buckets) -> None:
        super().__init__()
        self.items, self.words = items, words
        self.types = nn.Embedding(config.types, config.width, padding_idx=0)
        self.places = nn.Embedding(PLACES + 2, config.width)
        self.numbers = nn.Linear(2 * inputs.STEP_NUMBERS, config.width)

    def forward(
        self, items: Tensor, types: Tensor, places: Tensor, values: Tensor, numbers: Tensor
    ) -> Tensor:
        """Return (B, H, D)."""
        rows = self.items.place(items), self.words.place(values)
        return self.of_rows(*rows, types, places, numbers)

    def of_rows(
        self, items: Tensor, values: Tensor, types: Tensor, places: Tensor, numbers: Tensor
    ) -> Tensor:
        """Return (B, H, D), from the rows of items and values in their tables."""
        times = torch.cat([numbers, 1 / (1 + numbers)], -1)  # (B, H, 2 * STEP_NUMBERS)
        step: Tensor = (
            self.items.at(items)
            + self.words.at(values)
            + self.types(types)
            + self.places(places.clamp(max=PLACES + 1))
            + self.numbers(times)
        )
        return step


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Return what queries (B, Q, D) find in (B, H, D), biased by (B, heads, Q, H): (B, Q, D)."""
    heads = bias.shape[1]
    if torch.compiler.is_exporting():  # one node, for which ONNX Runtime has a kernel
        return torch.onnx.ops.symbolic(
            "Attention",
            (query, keys, values, bias),
            {"q_num_heads": heads, "kv_num_heads": heads},
            dtype=query.dtype,
            shape=query.shape,
            version=23,
        )
    query, keys, values = (_split(one, heads) for one in (query, keys, values))
    logits = query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5 + bias  # (B, heads, Q, H)
    found: Tensor = logits.softmax(-1) @ values  # (B, heads, Q, d)
    return found.transpose(1, 2).flatten(2)


def _split(vectors: Tensor, heads: int) -> Tensor:
    lists, length, width = vectors.shape
    return vectors.view(lists, length, heads, width // heads).transpose(1, 2)


def attend_history(
    module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, **_: object
) -> tuple[Tensor, None]:
    """Attend as `transformers` asks for it: (B, heads, H, d) in, (B, H, heads, d) out."""
    query, keys, values = (one.transpose(1, 2).flatten(2) for one in (query, keys, values))
    found = attend(query, keys, values, mask)
    return _split(found, mask.shape[1]).transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend_history)


class Encoder(nn.Module):
    """The history in its context, newest step last, and after it "now", which is always there."""

    def __init__(self, config: Configuration) -> None:
        super().__init__()
        shape = BertConfig(
            vocab_size=1,
            type_vocab_size=1,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention,
            intermediate_size=2 * config.width,
            max_position_embeddings=LONGEST + 1,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=0.0,
            initializer_range=config.width**-0.5,  # BERT's .02 is for a width of 768 and more
        )
        shape._attn_implementation = ATTENTION
        self.heads = config.attention
        self.now = nn.Parameter(torch.zeros(config.width))
        self.transformer = BertModel(shape, add_pooling_layer=False)

    def forward(self, steps: Tensor, there: Tensor) -> Tensor:
        """Encode (B, H, D), of which `there` (B, H + 1) exist with "now", as (B, H + 1, D)."""
        lists, length = there.shape
        steps = torch.cat([steps, self.now.expand(lists, 1, -1)], 1)  # (B, H + 1, D)
        # Counted from the newest, so that padding at the front changes nothing.
        ages = (length - 1 - torch.arange(length, device=steps.device)).clamp(max=LONGEST)
        known = self.transformer.embeddings
        # BertModel's own way to here and its masks are thirty nodes more, and give the same.
        always = known.position_embeddings.weight + known.token_type_embeddings.weight[0]
        steps = known.dropout(known.LayerNorm(steps + functional.embedding(ages, always)))
        mask = ((~there).float() * HIDDEN)[:, None, None].expand(-1, self.heads, length, -1)
        encoded: Tensor = self.transformer.encoder(steps, mask).last_hidden_state
        return encoded


class Attention(nn.Module):
    """Each candidate looks at the history, with a learned bias for where it is from each step."""

    def __init__(self, config: Configuration) -> None:
        super().__init__()
        self.heads = config.attention
        self.query = nn.Linear(config.hidden, config.width)
        self.keys = nn.Linear(config.width, 2 * config.width)
        # By type of the step, and by the places between: -P..P, or "not in the list".
        self.relations = 2 * PLACES + 2
        self.types = config.types
        self.bias = nn.Embedding(config.types * self.relations, config.attention)
        nn.init.zeros_(self.bias.weight)

    def forward(
        self, candidates: Tensor, history: Tensor, there: Tensor, types: Tensor, places: Tensor
    ) -> Tensor:
        """Return what each candidate found, (B, C, D).

        Args:
            candidates: (B, C, hidden).
            history: (B, H + 1, D), "now" last.
            there: Which of them exist, (B, H + 1).
            types: (B, H).
            places: 1 + place of each step's item in the list, 0 for none, (B, H).
        """
        keys, values = self.keys(history).chunk(2, -1)  # (B, H + 1, D)
        bias = self._bias(candidates.shape[1], types, places)  # (B, heads, C, H + 1)
        return attend(self.query(candidates), keys, values, bias)

    def _bias(self, size: int, types: Tensor, places: Tensor) -> Tensor:
        """Return the bias of each candidate towards each step, and of what must not be seen."""
        types = functional.pad(types, (0, 1), value=self.types)  # (B, H + 1), "now" last
        places = functional.pad(places, (0, 1))
        listed = places.sign()
        low = types * self.relations + (self.relations - 1) * (1 - listed)
        high = low + 2 * PLACES * listed
        own = torch.arange(PLACES + 1, PLACES + 1 + size, device=places.device)[:, None]
        spot = own + (low - places)[:, None]  # (B, C, H + 1)
        spot = torch.minimum(torch.maximum(spot, low[:, None]), high[:, None])
        # Padding, type 0, is hidden; towards "now" there is no bias.
        hidden = self.bias.weight.new_full((self.relations, self.heads), HIDDEN)
        rows = torch.cat([hidden, self.bias.weight[self.relations :], torch.zeros_like(hidden)])
        rows = rows.t().expand(spot.shape[0], -1, -1)  # (B, heads, rows)
        # By single numbers, head by head: rows of four would have to be turned afterwards.
        spot = spot.flatten(1)[:, None].expand(-1, self.heads, -1)
        return rows.gather(2, spot).view(spot.shape[0], self.heads, size, -1)


class Ranker(nn.Module):
    """The whole: the inputs of `features.inputs.stack` in, a score a candidate and head out.

    A score is log-odds: of the label; and, where there is a conversion, of label and conversion.
    """

    def __init__(self, config: Configuration, candidate: Bins, context: Bins) -> None:
        super().__init__()
        self.config = config
        hidden, width, outputs = config.hidden, config.width, len(config.heads)
        items, words = Buckets(config.buckets, width), Buckets(config.buckets, width)
        self.steps = Steps(config, items, words)
        self.encoder = Encoder(config)
        self.candidate_bins, self.context_bins = candidate, context
        # One product for the perceptron and for a linear way past it.
        self.dense = nn.Linear(len(candidate.low), hidden + outputs)
        self.context = nn.Linear(len(context.low) + 2 * width, hidden)
        self.content = nn.Linear(2 * width, hidden)
        # What the item is against who asks, and for what: multiplied, as no sum of both can say
        # that some like the sea and others the hills.
        self.item, self.user = nn.Linear(2 * width, width), nn.Linear(2 * width, width)
        self.attention = Attention(config)
        self.perceptron = nn.Sequential(
            nn.Linear(hidden + 2 * width, hidden), nn.ReLU(), nn.Dropout(config.dropout)
        )
        self.scores = nn.Linear(hidden + width, outputs)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        history_items: Tensor,
        history_types: Tensor,
        history_places: Tensor,
        history_values: Tensor,
        history_numbers: Tensor,
        candidate_items: Tensor,
        candidate_tokens: Tensor,
        candidate_numbers: Tensor,
        context_tokens: Tensor,
        context_numbers: Tensor,
    ) -> Tensor:
        """Score, higher is better, (B, C, heads); the inputs are those of `inputs.build`."""
        lists, size, words = candidate_tokens.shape
        hidden = self.config.hidden
        there = functional.pad(history_types > 0, (0, 1), value=True)  # (B, H + 1)
        # All hashes at once: both tables have as many rows.
        hashes = [
            self._some(history_items),
            history_values,
            self._some(candidate_items),
            candidate_tokens.transpose(1, 2).flatten(1),
            context_tokens,
        ]
        rows = self.steps.items.place(torch.cat(hashes, 1))
        sizes = [one.shape[1] for one in hashes]
        past, values, items, tokens, context = torch.split(rows, sizes, 1)
        steps = self.steps.of_rows(past, values, history_types, history_places, history_numbers)
        history = self.encoder(self.dropout(steps), there)  # (B, H + 1, D)
        now = history[:, -1]  # (B, D)

        reach = self._encoded(self.candidate_bins, candidate_numbers.transpose(1, 2))  # (B, K, C)
        known, skip = (self.dense.weight @ reach).transpose(1, 2).tensor_split((hidden,), -1)
        named = self._mean(tokens.view(lists, words, size))  # (B, C, D)
        content = torch.cat([self.steps.items.at(items), named], -1)  # (B, C, 2 D)
        asked = self._mean(context)  # (B, D)
        match = self.item(content) * self.user(torch.cat([now, asked], -1))[:, None]  # (B, C, D)
        shared = self._encoded(self.context_bins, context_numbers[..., None])[..., 0]
        listed = self.context(torch.cat([shared, asked, now], -1))  # (B, hidden)
        # Biases are added together once, not candidate by candidate.
        listed = listed + (self.dense.bias[:hidden] + self.content.bias)
        known = known + content @ self.content.weight.t() + listed[:, None]
        known = self.dropout(known.relu())  # (B, C, hidden)
        found = self.attention(known, history, there, history_types, history_places)
        deep = self.perceptron(torch.cat([known, found, match], -1))  # (B, C, hidden)
        scores: Tensor = torch.cat([deep, match], -1) @ self.scores.weight.t() + skip
        scores = scores + (self.scores.bias + self.dense.bias[hidden:])
        if len(self.config.heads) == 2:
            scores = both(scores)
        return scores.masked_fill((candidate_items == 0).unsqueeze(-1), 0.0)

    @torch.no_grad()
    def adjust(self, scale: Tensor, shift: Tensor) -> None:
        """Scale and shift the log-odds of each head (of the conversion: given the label).

        It is done within the last layers' weights, and costs nothing when lists are scored.

        Args:
            scale: (heads,).
            shift: (heads,).
        """
        skip = slice(self.config.hidden, None)
        self.scores.weight.mul_(scale[:, None])
        self.dense.weight[skip].mul_(scale[:, None])
        self.scores.bias.mul_(scale).add_(shift)
        self.dense.bias[skip].mul_(scale)

    def _some(self, hashes: Tensor) -> Tensor:
        """In training, forget some ids: 0 is the hash of nothing."""
        if not self.training:
            return hashes
        kept = torch.rand(hashes.shape, device=hashes.device) >= self.config.item_dropout
        return hashes * kept

    def _encoded(self, bins: Bins, values: Tensor) -> Tensor:
        """Encode numbers; in training drop whole features, the same for all of a list."""
        encoded: Tensor = bins(values)
        rate = self.config.feature_dropout
        if not self.training or not rate:
            return encoded
        shape = (len(values), values.shape[1], 1)
        kept = (torch.rand(shape, device=values.device) >= rate).float()
        return encoded * kept.index_select(1, bins.feature)

    def _mean(self, rows: Tensor) -> Tensor:
        """Average the vectors of the words that are there, (B, T, ...) as (B, ..., D)."""
        count = rows.clamp(max=1).sum(1).clamp(min=1)
        mean: Tensor = self.steps.words.at(rows).sum(1) / count[..., None]
        return mean


def both(scores: Tensor) -> Tensor:
    """Turn log-odds of a label, and of a conversion given it, into those of the label and of both.

    P(both) = P(label) * P(conversion | label): what is learned about conversions is learned from
    all lists and not from the labelled candidates alone, which are no fair sample of the rest.

    Args:
        scores: (..., 2).

    References:
        Ma et al., SIGIR 2018, "Entire space multi-task model: an effective approach for
        estimating post-click conversion rate".

    Examples:
        >>> both(torch.tensor([0.0, 0.0])).sigmoid().tolist()
        [0.5, 0.25]
    """
    label, given = scores[..., 0], scores[..., 1]
    against = torch.stack([-label, -given, -label - given], -1)
    return torch.stack([label, -against.logsumexp(-1)], -1)
