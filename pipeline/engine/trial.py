"""Variants of one receiver's input on their way through the network, and where what they change adds up.

Knows tensors and receivers by number. Does not know the network, nor who reads whom
(`pipeline.engine.incremental`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PortKey = tuple[int, str, int]  # layer, port, head

# Bytes of one lane's inputs, of all variants, that are held at once: a size of which memory stays at hand
# (`pipeline.models.freed`).
_LANE_BYTES = 2**24


@dataclass(frozen=True)
class Lane:
    """Receivers whose inputs have one shape and lie on one device; a change that many of them read is added to all of
    them at once."""

    receivers: tuple[int, ...]
    base: Float[Tensor, "receiver prompt row d_model"]  # their inputs before anything changes

    @cached_property
    def place(self) -> Mapping[int, int]:
        """Receiver -> its row of `base`."""
        return {receiver: row for row, receiver in enumerate(self.receivers)}


def lanes_of(inputs: Mapping[int, Tensor], receivers: Sequence[int], n_variants: int) -> list[Lane]:
    """These receivers, side by side as far as memory allows for so many variants."""
    alike: dict[tuple[torch.device, torch.Size], list[int]] = {}
    for receiver in receivers:
        x = inputs[receiver]
        alike.setdefault((x.device, x.shape), []).append(receiver)
    lanes = []
    for group in alike.values():
        one = inputs[group[0]]
        at_once = max(1, _LANE_BYTES // (n_variants * one.numel() * one.element_size()))
        for start in range(0, len(group), at_once):
            some = tuple(group[start : start + at_once])
            lanes.append(Lane(some, stacked([inputs[receiver] for receiver in some])))
    return lanes


@dataclass
class Trial:
    """Variants of one receiver's input: what each changes, and where it ends.

    `hidden` is the final hidden state at the answer, None where nothing arrives there. `mute` says at which rows a
    changed sender writes nothing at all, where what is removed writes nothing either. What is alike in all variants may
    be there once.
    """

    receiver: int
    n_variants: int
    lanes: Sequence[Lane] = ()
    inputs: dict[int, Float[Tensor, "variant_or_one prompt row d_model"]] = field(default_factory=dict)
    ports: dict[PortKey, Float[Tensor, "variant_or_one prompt row d_head"]] = field(default_factory=dict)
    # where a port lies among those of other heads: so many in front of it
    places: dict[PortKey, tuple[Float[Tensor, "head variant_or_one prompt row d_head"], int]] = field(
        default_factory=dict
    )
    outputs: dict[int, Float[Tensor, "variant_or_one prompt row d_model"]] = field(default_factory=dict)
    mute: dict[int, Bool[Tensor, "variant_or_one prompt row one"]] = field(default_factory=dict)
    hidden: Float[Tensor, "variant_or_one prompt *read d_model"] | None = None
    # of lanes: what has arrived in every variant, and what of that is alike in all of them
    _sums: dict[int, Float[Tensor, "receiver variant prompt row d_model"]] = field(default_factory=dict)
    _alike: dict[int, Float[Tensor, "receiver one prompt row d_model"]] = field(default_factory=dict)
    _apart: set[int] = field(default_factory=set)  # receivers whose variants differ

    def add(
        self, lane: int, readers: Sequence[int], change: Float[Tensor, "variant_or_one prompt row d_model"]
    ) -> None:
        """Adds a change, of each variant or the same of all, to the inputs of some receivers of a lane. What is alike
        in all variants stays one."""
        of = self.lanes[lane]
        places = sorted(of.place[receiver] for receiver in readers)
        change = change.to(of.base.device)
        start = self._alike.get(lane, of.base[:, None])
        if len(change) == self.n_variants:
            self._sums[lane] = _added(self._sums.get(lane), start, places, change)
            self._apart.update(readers)
        else:
            self._alike[lane] = _added(self._alike.get(lane), start, places, change)
            if lane in self._sums:
                _added(self._sums[lane], start, places, change)
        for receiver in readers:
            total = (self._sums if receiver in self._apart else self._alike)[lane]
            self.inputs[receiver] = total[of.place[receiver]]

    def projected(
        self, layer: int, port: str, heads: Sequence[int]
    ) -> Float[Tensor, "head variant_or_one prompt row d_head"] | None:
        """Changed ports of some heads where they lie side by side already, in this order."""
        found = [self.places[layer, port, head] for head in heads]
        together, first = found[0]
        if all(one is together and place == first + step for step, (one, place) in enumerate(found)):
            return together[first : first + len(found)]
        return None

    def let_go(self, last: int) -> None:
        """Forgets the inputs of all receivers up to `last`, and everything made from them."""
        self.inputs = {receiver: x for receiver, x in self.inputs.items() if receiver > last}
        self.ports.clear()
        self.places.clear()
        self.outputs.clear()


def _added(
    total: Float[Tensor, "receiver variant prompt row d_model"] | None,
    start: Float[Tensor, "receiver one prompt row d_model"],
    places: Sequence[int],
    change: Float[Tensor, "variant_or_one prompt row d_model"],
) -> Float[Tensor, "receiver variant prompt row d_model"]:
    """`total`, in place, with a change at some of its receivers; `start` is what it begins with."""
    if total is None:
        if len(places) == len(start):
            return start + change
        total = start.expand(-1, len(change), -1, -1, -1).clone()
    if places[-1] - places[0] + 1 == len(places):
        total[places[0] : places[-1] + 1].add_(change)
    else:
        index = torch.tensor(places, device=total.device)
        total.index_add_(0, index, change.expand(len(places), *total.shape[1:]))
    return total


def compact(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The same values; copies of them where they are small parts of what they keep in memory."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors.values()}
    if sum(storages.values()) <= 2 * sum(x.numel() * x.element_size() for x in tensors.values()):
        return dict(tensors)
    return {key: x.clone() for key, x in tensors.items()}


def stacked(xs: Sequence[Tensor]) -> Tensor:
    """`torch.stack`; of one, without a copy."""
    return xs[0][None] if len(xs) == 1 else torch.stack(list(xs))
