"""The optimizers behind one face: AdamW, or Muon for the layers' matrices and AdamW for the rest.

Their state exists from the start, as zeros, so that a checkpoint always has the same tensors. Muon's updates are scaled
to the size of AdamW's (arXiv 2502.16982, section 2.2), so both take the same learning rate and decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Optimizer:
    """Updates `parameters` (by name; plain tensors or shards of them) from their gradients, in place."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], kind: str, betas: tuple[float, float], weight_decay: float
    ) -> None:
        """ValueError for a `kind` that is neither "adamw" nor "muon"."""
        if kind not in ("adamw", "muon"):
            raise ValueError(f"optimizer {kind!r} is not known: choose 'adamw' or 'muon'")
        self.updates = 0
        """Steps taken."""
        self._parameters = dict(parameters)
        hidden = [p for name, p in parameters.items() if kind == "muon" and p.ndim == 2 and ".layers." in name]
        taken = set(map(id, hidden))
        rest = [p for p in parameters.values() if id(p) not in taken]
        # One call of the fused update takes tensors of one mesh.
        groups: dict[Any, dict[str, Any]] = {}
        for parameter in rest:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            key = (decay, getattr(parameter, "device_mesh", None))
            groups.setdefault(key, {"params": [], "weight_decay": decay})["params"].append(parameter)
        self._adamw = torch.optim.AdamW(list(groups.values()), betas=betas, fused=True)
        self._all: list[torch.optim.Optimizer] = [self._adamw]
        for parameter in rest:
            self._adamw.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
        if hidden:
            muon = torch.optim.Muon(hidden, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self._all.append(muon)
            for parameter in hidden:
                muon.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)}

    def step(self, rate: float) -> None:
        """One update at the learning rate `rate`."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.updates += 1

    def zero_grad(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments, as "parameter.NAME", "exp_avg.NAME", ...: the tensors themselves, to save or to fill."""
        found = {}
        for name, parameter in self._parameters.items():
            found[f"parameter.{name}"] = parameter.detach()
            for optimizer in self._all:
                for kind, value in optimizer.state.get(parameter, {}).items():
                    if kind != "step":
                        found[f"{kind}.{name}"] = value
        return found

    def set_updates(self, updates: int) -> None:
        """After `tensors` have been filled: how many steps made them."""
        self.updates = updates
        for state in self._adamw.state.values():
            state["step"].fill_(updates)
