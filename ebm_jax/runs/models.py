"""Trained models that outlive their run: one file, and plain functions made from it.

    model = load("runs/edm")                    # or the file model.safetensors alone
    denoise_fn = model.denoiser(label=7, guidance_scale=2.0)     # D(x, sigma)
    energy_fn = load("runs/energy").energy                       # E(x)

The file holds the averaged parameters (EMA) as safetensors. JSON in its header describes the
network, the preconditioning that makes it a denoiser, the shape of an example, the classes and
the sampler, by public names of this library (`runs.plain`). Loading a file runs no code of it.
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
from jaxtyping import Array, Int, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import ebm_jax
from ebm_jax.guidance import classifier_free_guided
from ebm_jax.nets import initial_parameters
from ebm_jax.nets.precondition import RawFn
from ebm_jax.runs.plain import PlainError, from_plain, to_plain
from ebm_jax.types import DenoiseFn, EnergyFn, Example, PRNGKey, Scalar

FILE = "model.safetensors"
FORMAT = 1  # version of the file, raised by each change that older versions cannot read


class ModelError(ValueError):
    """A model that cannot be loaded, or lacks what is requested; the message is one sentence."""


class Model(NamedTuple):
    """A trained model: a network, its parameters, and how to use them.

    Attributes:
        net: the linen module.
        params: its parameters, usually their exponential moving average.
        shape: the shape of one example.
        wrap: turns net.apply into a denoiser D(x, sigma); None for an energy E(x).
        sampler: sampler(fn, key, like) returns one example, for the denoiser or energy fn; None
            if the model was saved without one.
        names: names of the classes that `label` may be, or None for a model without labels.
        center: array subtracted from an example before the network of an energy, or None.
        scale: array by which the result is divided, or None.
        about: origin of the model as JSON: configuration, data, steps, versions.
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
        label: int | str | Int[Array, ""] | None = None,
        guidance_scale: float = 1.0,
        interval: tuple[float, float] = (0.0, float("inf")),
    ) -> DenoiseFn:
        """Returns D(x, sigma) in variance-exploding coordinates, for one class or all.

        Args:
            label: a class by number or name, or a traced number; None for the unconditional model.
            guidance_scale: scale of classifier-free guidance towards the label: 1 is the
                conditional model, larger values strengthen the label.
            interval: noise levels between which the guidance acts.

        Raises:
            ModelError: The model is an energy, or has no such label.
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

    def _of_class(self, index: int | Int[Array, ""]) -> RawFn:
        return lambda x, level: self.net.apply(self.params, x, level, jnp.asarray(index))

    def class_of(self, label: int | str | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns the number of a class given by name or number; a traced number is unchanged.

        Raises:
            ModelError: There is no such class.
        """
        if self.names is None:
            raise ModelError(f"label={label!r} needs a model trained with labels; this one is not.")
        if isinstance(label, jax.Array):
            return label
        if str(label) in self.names:
            return self.names.index(str(label))
        if isinstance(label, int) and 0 <= label < len(self.names):
            return label
        raise ModelError(f"label={label!r} is not among the classes: {', '.join(self.names)}.")

    @property
    def energy(self) -> EnergyFn:
        """E(x) in the units of the data, up to a constant: p(x) is proportional to exp(-E(x)).

        Raises:
            ModelError: The model is a denoiser, whose score need not be a gradient.
        """
        if self.wrap is not None:
            raise ModelError("`energy` got a model that is a denoiser: use its `denoiser`.")
        center = 0.0 if self.center is None else self.center
        scale = 1.0 if self.scale is None else self.scale

        def energy(x: Example) -> Scalar:
            return self.net.apply(self.params, (x - center) / scale)

        return energy

    def draw(self, key: PRNGKey, **options: Any) -> Example:
        """Draws one sample by the sampler that the model was saved with.

        Args:
            key: PRNG key of the sample.
            options: for a denoiser, the arguments of `denoiser`: label, guidance_scale, interval.

        Raises:
            ModelError: The model has no sampler; also as for `denoiser`.
        """
        if self.sampler is None:
            raise ModelError("the model was saved without a sampler: use one of `samplers`.")
        like = jnp.zeros(self.shape)
        if self.wrap is not None:
            return self.sampler(self.denoiser(**options), key, like)
        return self.sampler(self.energy, key, like)


def save_model(path: str | os.PathLike[str], model: Model) -> None:
    """Writes a model to one file, completely or not at all.

    Raises:
        PlainError: The network, wrapper or sampler is not made of public names of the library.

    Examples:
        >>> import tempfile, jax, jax.numpy as jnp
        >>> from ebm_jax import nets, runs
        >>> net = nets.EnergyMLP((8, 8))
        >>> params = net.init(jax.random.key(0), jnp.zeros(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     runs.save_model(f"{folder}/model.safetensors", runs.Model(net, params, (2,)))
        ...     model = runs.load(folder)
        >>> bool(model.energy(jnp.ones(2)) == net.apply(params, jnp.ones(2)))
        True
    """
    text = header(model)
    arrays = {name: np.asarray(value) for name, value in _flat(model.params)}
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(save(arrays, metadata={"ebm_jax": text}))
    os.replace(unfinished, path)


def header(model: Model) -> str:
    """Returns the JSON of everything but the parameters; raises as `save_model`."""
    parts = {name: to_plain(value) for name, value in model._asdict().items() if name != "params"}
    written = {"format": FORMAT, "ebm_jax": ebm_jax.__version__, **parts}
    return json.dumps(written, allow_nan=False)


def load(path: str | os.PathLike[str]) -> Model:
    """Loads a trained model from a run's folder, or from its file model.safetensors.

    Args:
        path: the folder of a run, finished or not, or the file. `save_model` has an example.

    Raises:
        ModelError: There is no model, or it is damaged or was written by a newer version.
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
    """Raises a ValueError if the parameters do not fit the network."""
    like = jax.ShapeDtypeStruct(model.shape, jnp.float32)
    start = partial(initial_parameters, model.net, model.wrap)
    wanted = jax.eval_shape(start, jax.random.key(0), like)
    shapes = {name: leaf.shape for name, leaf in _flat(wanted)}
    if shapes != (given := {name: leaf.shape for name, leaf in _flat(model.params)}):
        other = sorted(name for name in {*shapes, *given} if shapes.get(name) != given.get(name))
        raise ValueError(f"parameters {', '.join(other[:3])} are not the network's")


def _flat(tree: PyTree, above: str = "") -> list[tuple[str, Any]]:
    """Returns the arrays in nested dictionaries by their paths, as "params/Dense_0/kernel"."""
    if not isinstance(tree, Mapping):
        return [(above, tree)]
    parts = [_flat(tree[name], f"{above}/{name}" if above else name) for name in sorted(tree)]
    return [pair for part in parts for pair in part]


def _nested(flat: Mapping[str, Any]) -> PyTree:
    """Returns the nested dictionaries that `_flat` flattened."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *above, name = path.split("/")
        inner = tree
        for step in above:
            inner = inner.setdefault(step, {})
        inner[name] = value
    return tree
