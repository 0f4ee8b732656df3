"""Trained models that outlive their run: one file, and plain functions made of it.

    model = load("runs/edm")                    # or the file model.safetensors alone
    denoise_fn = model.denoiser(label=7, guidance_scale=2.0)     # D(x, sigma)
    energy_fn = load("runs/energy").energy                       # E(x)

The file holds the averaged parameters as safetensors and, in its header, JSON that names the
network, what makes a denoiser of it, the shape of an example, its classes and the sampler by
public names of this library (`runs.plain`). Reading it runs no code of the file.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import ebm_jax
from ebm_jax.guidance import classifier_free_guided
from ebm_jax.nets import initial_parameters
from ebm_jax.nets.precondition import RawFn
from ebm_jax.runs.plain import PlainError, from_plain, to_plain
from ebm_jax.types import DenoiseFn, EnergyFn, Example, PRNGKey, Scalar

FILE = "model.safetensors"
FORMAT = 1  # of the file; one number more for each change that older versions cannot read


class ModelError(ValueError):
    """A model that cannot be loaded, or does not have what is asked of it; one sentence."""


class Model(NamedTuple):
    """A trained model: a network, its parameters, and what the two mean.

    Attributes:
        net: the linen module.
        params: its parameters, usually their moving average.
        shape: the shape of an example.
        wrap: makes a denoiser D(x, sigma) of net.apply; None for an energy E(x).
        sampler: sampler(fn, key, like) -> one example, of the denoiser or the energy; None
            if the model was saved without one.
        names: the names of the classes that `label` may be, or None without labels.
        center: what an energy takes off an example before the network sees it, or None.
        scale: what it divides the result by, or None.
        about: where the model comes from, as JSON: configuration, data, steps, versions.
    """

    net: Any
    params: PyTree
    shape: tuple[int, ...]
    wrap: Any = None
    sampler: Any = None
    names: tuple[str, ...] | None = None
    center: Array | None = None
    scale: Array | None = None
    about: Mapping[str, Any] = {}

    def denoiser(
        self,
        label: int | str | None = None,
        guidance_scale: float = 1.0,
        interval: tuple[float, float] = (0.0, float("inf")),
    ) -> DenoiseFn:
        """D(x, sigma) in variance-exploding coordinates, of one class or of all.

        Args:
            label: a class by number or name; None for the model without labels.
            guidance_scale: of classifier-free guidance towards the label: 1 is the class
                itself, more exaggerates it.
            interval: the noise levels between which the guidance acts.

        Raises:
            ModelError: if the model is an energy, or does not know the label.
        """
        if self.wrap is None:
            raise ModelError("`denoiser` got a model that is an energy: use its `energy`.")
        if label is None:
            if guidance_scale != 1:
                raise ModelError(f"guidance_scale={guidance_scale} needs a label: give one.")
            return self.wrap(partial(self.net.apply, self.params))
        conditional = self.wrap(self._of_class(self.class_of(label)))
        if guidance_scale == 1:
            return conditional
        return classifier_free_guided(
            conditional, self.denoiser(), scale=guidance_scale, interval=interval
        )

    def _of_class(self, index: int) -> RawFn:
        return lambda x, level: self.net.apply(self.params, x, level, jnp.asarray(index))

    def class_of(self, label: int | str) -> int:
        """Returns the number of a class that is given by its name or its number.

        Raises:
            ModelError: if there is no such class.
        """
        if self.names is None:
            raise ModelError(f"label={label!r} needs a model trained with labels; this one is not.")
        if str(label) in self.names:
            return self.names.index(str(label))
        if isinstance(label, int) and 0 <= label < len(self.names):
            return label
        raise ModelError(f"label={label!r} is not among the classes: {', '.join(self.names)}.")

    @property
    def energy(self) -> EnergyFn:
        """E(x) in the units of the data, up to a constant: p(x) ~ exp(-E(x)).

        Raises:
            ModelError: if the model is a denoiser, whose score is the gradient of no energy.
        """
        if self.wrap is not None:
            raise ModelError("`energy` got a model that is a denoiser: use its `denoiser`.")
        center = 0.0 if self.center is None else self.center
        scale = 1.0 if self.scale is None else self.scale

        def energy(x: Example) -> Scalar:
            return self.net.apply(self.params, (x - center) / scale)

        return energy

    def draw(self, key: PRNGKey, **options: Any) -> Example:
        """One sample by the sampler that the model was saved with.

        Args:
            key: PRNG key of the sample.
            options: for a denoiser those of `denoiser`: label, guidance_scale, interval.

        Raises:
            ModelError: if the model has no sampler, and as `denoiser`.
        """
        if self.sampler is None:
            raise ModelError("the model was saved without a sampler: use one of `samplers`.")
        like = jnp.zeros(self.shape)
        if self.wrap is not None:
            return self.sampler(self.denoiser(**options), key, like)
        return self.sampler(self.energy, key, like)


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Writes a model to one file, whole or not at all.

    Raises:
        PlainError: if a part of it is not made of public names of the library.
    """
    text = header(model)
    arrays = {name: np.asarray(value) for name, value in _flat(model.params)}
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(save(arrays, metadata={"ebm_jax": text}))
    os.replace(unfinished, path)


def header(model: Model) -> str:
    """Returns the JSON of everything but the parameters.

    Raises:
        PlainError: if a part of it is not made of public names of the library.
    """
    parts = {name: to_plain(value) for name, value in model._asdict().items() if name != "params"}
    written = {"format": FORMAT, "ebm_jax": ebm_jax.__version__, **parts}
    return json.dumps(written, allow_nan=False)


def load(path: str | os.PathLike[str]) -> Model:
    """Loads a trained model from a run's folder, or from its file model.safetensors.

    Args:
        path: the folder of a run, finished or not, or the file.

    Raises:
        ModelError: if there is none, or if it is damaged or of a newer version.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ModelError(f"{path} holds no model: give a run's folder, or its {FILE}.")
    try:
        with safe_open(file, framework="numpy") as opened:
            text = (opened.metadata() or {}).get("ebm_jax")
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no model ({error}): copy it again.") from error
    if text is None:
        raise ModelError(f"{file} holds arrays, but no model of this library: give another file.")
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            version = found["ebm_jax"]
            raise ModelError(
                f"{file} was written by ebm_jax {version}: install that or a newer one."
            )
        parts = {name: from_plain(found[name]) for name in Model._fields if name != "params"}
        model = Model(params=jax.tree.map(jnp.asarray, _nested(arrays)), **parts)
        _check_parameters(model)
    except (PlainError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{file} is damaged ({error}): copy it again, or train anew.") from error
    return model


def _check_parameters(model: Model) -> None:
    """Raises ValueError if the parameters are not those that the network takes."""
    like = jax.ShapeDtypeStruct(model.shape, jnp.float32)
    start = partial(initial_parameters, model.net, model.wrap)
    wanted = jax.eval_shape(start, jax.random.key(0), like)
    shapes = {name: leaf.shape for name, leaf in _flat(wanted)}
    if shapes != (given := {name: leaf.shape for name, leaf in _flat(model.params)}):
        other = sorted(name for name in {*shapes, *given} if shapes.get(name) != given.get(name))
        raise ValueError(f"parameters {', '.join(other[:3])} are not the network's")


def _flat(tree: PyTree, above: str = "") -> list[tuple[str, Any]]:
    """The arrays of nested dictionaries by the names on the way, as "params/Dense_0/kernel"."""
    if not isinstance(tree, Mapping):
        return [(above, tree)]
    parts = [_flat(tree[name], f"{above}/{name}" if above else name) for name in sorted(tree)]
    return [pair for part in parts for pair in part]


def _nested(flat: Mapping[str, Any]) -> PyTree:
    """The nested dictionaries that `_flat` was given."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *above, name = path.split("/")
        inner = tree
        for step in above:
            inner = inner.setdefault(step, {})
        inner[name] = value
    return tree
