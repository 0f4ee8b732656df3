"""The network of `benchmarks.energies`, with the same weights for every implementation.

    E(x) = head . h_n + exp(r) / 2 |x|^2,   h_l = silu(W_l h_(l-1) + b_l),   h_0 = x,

as NumPy arrays, as parameters of `nets.EnergyMLP`, as a torch module, and as formulas in double
precision, which give the correct results for every implementation.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np


class Weights(NamedTuple):
    """Kernels (inputs, outputs) and biases of the layers, and r."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    log_precision: float


def random_weights(widths: tuple[int, ...], dimension: int, *, gain: float, seed: int) -> Weights:
    """Returns normal kernels of standard deviation gain / sqrt(inputs), normal biases, r = -1."""
    rng = np.random.default_rng(seed)
    sizes = [dimension, *widths, 1]
    layers = [
        (
            (gain / np.sqrt(before) * rng.standard_normal((before, after))).astype(np.float32),
            rng.standard_normal(after).astype(np.float32),
        )
        for before, after in pairwise(sizes)
    ]
    return Weights(layers, -1.0)


def jax_params(weights: Weights) -> dict[str, Any]:
    """Returns the parameters of `nets.EnergyMLP`."""
    import jax.numpy as jnp

    dense = {
        f"Dense_{i}": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        for i, (kernel, bias) in enumerate(weights.layers)
    }
    return {"params": {"log_precision": jnp.float32(weights.log_precision), "MLP_0": dense}}


def torch_energy(weights: Weights) -> Any:
    """Returns a torch module from (n, d) to (n,), which trains what `EnergyMLP` trains."""
    import torch
    from torch import nn

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for kernel, bias in weights.layers:
                dense = nn.Linear(*kernel.shape)
                dense.weight.data = torch.from_numpy(kernel.T.copy())
                dense.bias.data = torch.from_numpy(bias.copy())
                layers += [dense, nn.SiLU()]
            self.net = nn.Sequential(*layers[:-1])
            self.log_precision = nn.Parameter(torch.tensor(weights.log_precision))

        def forward(self, x: Any) -> Any:
            return self.net(x)[:, 0] + 0.5 * self.log_precision.exp() * x.square().sum(-1)

    return Energy()


def torchebm_energy(energy: Any) -> Any:
    """Wraps a torch module as a torchebm model."""
    from torchebm.core import BaseModel

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.energy = energy

        def forward(self, x: Any) -> Any:
            return self.energy(x)

    return Model()


def energy(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Returns E of points (n, d), in double precision."""
    *hidden, (head, offset) = weights.layers
    h = np.asarray(x, np.float64)
    quadratic = 0.5 * np.exp(weights.log_precision) * np.sum(h**2, -1)
    for kernel, bias in hidden:
        a = h @ kernel + bias
        h = a / (1 + np.exp(-a))
    return (h @ head + offset)[:, 0] + quadratic


def gradient(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Returns grad E of points (n, d), in double precision."""
    return _derivatives(weights, x)[0]


def gradient_and_laplacian(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns grad E and tr d^2 E/dx^2 of points (n, d), with dx/dx pushed through the layers."""
    pull, hidden = _derivatives(weights, x)
    n, d = x.shape
    laplacian = np.full(n, d * np.exp(weights.log_precision))
    for i in range(n):
        pushed = np.eye(d)
        for kernel, slope, bend in hidden:
            pushed = pushed @ kernel
            laplacian[i] += np.sum(pushed**2 @ bend[i])
            pushed = pushed * slope[i]
    return pull, laplacian


def _derivatives(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Returns grad E and, per hidden layer, the kernel, silu'(a) and dE/dh silu''(a)."""
    *hidden, (head, _) = weights.layers
    h, slopes = np.asarray(x, np.float64), []
    for kernel, bias in hidden:
        a = h @ kernel + bias
        s = 1 / (1 + np.exp(-a))
        h = a * s
        slopes.append((s + h * (1 - s), s * (1 - s) * (2 + a * (1 - 2 * s))))
    pull, bends = np.broadcast_to(head[:, 0], (len(x), len(head))), []
    for (kernel, _), (slope, second) in zip(reversed(hidden), reversed(slopes), strict=True):
        bends.append((np.asarray(kernel, np.float64), slope, pull * second))
        pull = (pull * slope) @ kernel.T
    return pull + np.exp(weights.log_precision) * x, bends[::-1]
