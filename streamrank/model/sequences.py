"""A Transformer over sequences of items: what comes next, out of the whole catalogue.

    items, types, gaps ── one vector a step ── GPT-2's blocks (transformers) ── state a step
      └────────────── the same item vectors ──────────────┴── product ── score an item

The vectors of items are the same at both ends.  Positions are learned and counted from the
newest step, so that padding at the front changes nothing.  A step looks back only, for the next
item, or both ways, for items that are hidden.

Shapes: B sequences, H steps, D width, N items; items are 1..N, 0 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model


@dataclass(frozen=True, slots=True)
class Shape:
    """What the shape of a sequence model follows from.

    Attributes:
        items: Size of the catalogue, N.
        types: Interaction types of a step, 1..types, or 0 if steps have none.
        times: Whether steps have gaps: log seconds since the step before.
        width: Of the vectors, D.
        layers: Blocks.
        heads: Of each attention.
        inner: Width within a block, as a multiple of D.
        length: Steps that are looked at, at most.
        dropout: Share of hidden units dropped in training.
    """

    items: int
    types: int = 0
    times: bool = False
    width: int = 64
    layers: int = 2
    heads: int = 2
    inner: int = 2
    length: int = 200
    dropout: float = 0.2


class SequenceModel(nn.Module):
    """Item sequences in, a state a step out; a state times an item's vector is its score."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.items = nn.Embedding(shape.items + 1, shape.width, padding_idx=0)
        self.hidden = nn.Parameter(torch.zeros(shape.width))
        self.types = nn.Embedding(shape.types + 1, shape.width) if shape.types else None
        self.gaps = nn.Linear(2, shape.width) if shape.times else None
        self.transformer = GPT2Model(_blocks(shape))
        nn.init.normal_(self.items.weight[1:], std=0.02)

    def forward(
        self,
        items: Tensor,
        types: Tensor | None = None,
        gaps: Tensor | None = None,
        hidden: Tensor | None = None,
        both_ways: Tensor | None = None,
    ) -> Tensor:
        """Encode each step in its context, (B, H, D).

        Args:
            items: Padded at the front, so that the newest is last, (B, H).
            types: The same shape.
            gaps: Log seconds since the step before, (B, H).
            hidden: Which items are not to be seen, (B, H).
            both_ways: Which sequences look ahead as well, (B,).
        """
        vectors = self.items(items)
        if hidden is not None:
            vectors = torch.where(hidden[..., None], self.hidden, vectors)
        return self.encode(self.steps(vectors, types, gaps), items > 0, both_ways)

    def steps(self, vectors: Tensor, types: Tensor | None, gaps: Tensor | None) -> Tensor:
        """Add to the items' vectors (B, H, D) what was done and when."""
        if self.types is not None and types is not None:
            vectors = vectors + self.types(types)
        if self.gaps is not None and gaps is not None:
            vectors = vectors + self.gaps(torch.stack([gaps, 1 / (1 + gaps)], -1))
        return vectors

    def encode(self, steps: Tensor, there: Tensor, both_ways: Tensor | None = None) -> Tensor:
        """Encode steps (B, H, D), of which `there` (B, H) are no padding."""
        length = steps.shape[1]
        ages = length - 1 - torch.arange(length, device=steps.device)
        encoded: Tensor = self.transformer(
            inputs_embeds=steps,
            attention_mask=_looks_at(there, both_ways),
            position_ids=ages.clamp(max=self.shape.length - 1)[None],
            use_cache=False,
        ).last_hidden_state
        return encoded


def _blocks(shape: Shape) -> GPT2Config:
    config = GPT2Config(
        vocab_size=1,
        bos_token_id=None,
        eos_token_id=None,
        n_positions=shape.length,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.inner * shape.width,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=0.0,
        activation_function="relu",
    )
    config._attn_implementation = "sdpa"
    return config


def _looks_at(there: Tensor, both_ways: Tensor | None) -> Tensor:
    """Return which step looks at which, (B, 1, H, H); padding looks at itself."""
    places = torch.arange(there.shape[1], device=there.device)
    back = places[:, None] >= places  # (H, H)
    seen = back if both_ways is None else back | both_ways[:, None, None, None]
    return (there[:, None, None] & seen) | (places[:, None] == places)
