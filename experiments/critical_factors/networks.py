"""The two families with what the library's own don't vary: activation, normalization, pooling,
size of the filters, and a dropout rate that may be a traced number.

images: float32 [batch, height, width, channels]; logits: float32 [batch, classes]. With the
library's choices (ReLU, BatchNorm or none, max-pooling, 3x3) parameters and logits are those of
`digits_jax.MLP` and `digits_jax.CNN`; a test holds them together.
"""

from collections.abc import Callable, Sequence

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from digits_jax.errors import ConfigError
from digits_jax.models.matmul_conv import (
    MatmulConv,
    from_batch_last,
    max_pool,
    max_pool_batch_last,
    space_to_depth,
    to_batch_last,
)
from experiments.critical_factors.recipe import Recipe

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "gelu": nn.gelu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
}
NORMALIZATIONS = ("batch", "layer", "group", "none")
POOLINGS = ("max", "average", "stride")
GROUPS = 4


class VariantMLP(nn.Module):
    """`digits_jax.MLP` with a choice of activation and normalization.

    Attributes:
      num_classes: number of logits.
      hidden_sizes: width of each hidden layer.
      activation: a name in `ACTIVATIONS`.
      normalization: a name in `NORMALIZATIONS`.
      drops: whether ``dropout_rate`` is looked at in training: drawing the numbers takes time.

    Example:
      >>> module = VariantMLP(hidden_sizes=(8,), normalization="layer")
      >>> sorted(module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"])
      ['hidden_0', 'logits', 'norm_0']
    """

    num_classes: int = 10
    hidden_sizes: Sequence[int] = (512, 512)
    activation: str = "relu"
    normalization: str = "batch"
    drops: bool = False

    @nn.compact
    def __call__(self, images, *, train: bool = False, dropout_rate=0.0) -> jax.Array:
        chex.assert_rank(images, 4)
        x = images.reshape(images.shape[0], -1)
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Dense(size, use_bias=self.normalization != "batch", name=f"hidden_{i}")(x)
            x = _normalize(x, self.normalization, train, f"norm_{i}")
            x = ACTIVATIONS[self.activation](x)
            if train and self.drops:
                x = drop(self.make_rng("dropout"), x, dropout_rate)
        return nn.Dense(self.num_classes, name="logits")(x)


class VariantCNN(nn.Module):
    """`digits_jax.CNN` with a choice of activation, normalization, pooling and filter size.

    Attributes:
      num_classes, channels, convs_per_block, dense_size: as `digits_jax.CNN` has them.
      kernel: side of the filters in pixels, odd.
      pooling: a name in `POOLINGS`; "stride" has each block's last filter step by two instead.
      activation, normalization, drops: as `VariantMLP` has them.
      convolution: "lax" or "matmul"; what matmul doesn't know is computed as lax.

    Example:
      >>> module = VariantCNN(channels=(8,), kernel=5, pooling="average")
      >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
      >>> variables["params"]["conv_0_0"]["kernel"].shape
      (5, 5, 4, 8)
    """

    num_classes: int = 10
    channels: Sequence[int] = (24, 48)
    convs_per_block: int = 1
    dense_size: int = 128
    kernel: int = 3
    pooling: str = "max"
    activation: str = "relu"
    normalization: str = "batch"
    drops: bool = False
    convolution: str = "lax"

    @nn.compact
    def __call__(self, images, *, train: bool = False, dropout_rate=0.0) -> jax.Array:
        chex.assert_rank(images, 4)
        as_products = self.convolution == "matmul" and by_matmul(self)
        features = self._by_matmul if as_products else self._in_pixels
        x = features(space_to_depth(images), train)
        x = x.reshape(x.shape[0], -1)
        if self.dense_size:
            x = nn.Dense(self.dense_size, use_bias=self._bias, name="dense")(x)
            x = _normalize(x, self.normalization, train, "norm_dense")
            x = ACTIVATIONS[self.activation](x)
        if train and self.drops:
            x = drop(self.make_rng("dropout"), x, dropout_rate)
        return nn.Dense(self.num_classes, name="logits")(x)

    @property
    def _bias(self):
        return self.normalization != "batch"

    def _in_pixels(self, x, train):
        side = (self.kernel, self.kernel)
        for i, features in enumerate(self.channels):
            for j in range(self.convs_per_block):
                pooled = j == self.convs_per_block - 1
                step = 2 if pooled and self.pooling == "stride" else 1
                height, width = x.shape[1:3]
                x = nn.Conv(
                    features,
                    side,
                    strides=(step, step),
                    padding=self.kernel // 2,
                    use_bias=self._bias,
                    name=f"conv_{i}_{j}",
                )(x)
                if pooled:
                    # As pooling leaves out an odd last row: the same weights follow.
                    x = self._pool(x)[:, : height // 2, : width // 2]
                x = _normalize(x, self.normalization, train, f"norm_{i}_{j}")
                x = ACTIVATIONS[self.activation](x)
        return x

    def _pool(self, x):
        return {"max": max_pool, "average": average_pool, "stride": lambda y: y}[self.pooling](x)

    def _by_matmul(self, x, train):
        x = to_batch_last(x)
        for i, features in enumerate(self.channels):
            for j in range(self.convs_per_block):
                pooled = j == self.convs_per_block - 1
                x = MatmulConv(features, self._bias, pooled, name=f"conv_{i}_{j}")(x)
                if pooled:
                    x = max_pool_batch_last(x)
                x = _normalize(x, self.normalization, train, f"norm_{i}_{j}", axis=1)
                x = ACTIVATIONS[self.activation](x)
        return from_batch_last(x)


def by_matmul(choice: Recipe | VariantCNN) -> bool:
    """Whether a CNN's convolutions can be products of matrices, as the library's own.

    Example:
      >>> by_matmul(Recipe("cnn")), by_matmul(Recipe("cnn", pooling="average"))
      (True, False)
    """
    known = choice.normalization in ("batch", "none")
    return known and choice.kernel == 3 and choice.pooling == "max"


def build(recipe: Recipe, num_classes: int, convolution: str = "lax") -> nn.Module:
    """The module of a recipe.

    Args:
      recipe: what to build.
      num_classes: of the data set.
      convolution: "lax" or "matmul".

    Raises:
      ConfigError: a choice that there is not.

    Example:
      >>> build(Recipe("mlp", hidden_sizes=(8, 4)), num_classes=10).hidden_sizes
      (8, 4)
    """
    for name, allowed in (
        ("activation", tuple(ACTIVATIONS)),
        ("normalization", NORMALIZATIONS),
        ("pooling", POOLINGS),
    ):
        if getattr(recipe, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(recipe, name)!r}; allowed: {', '.join(allowed)}")
    common = {
        "num_classes": num_classes,
        "activation": recipe.activation,
        "normalization": recipe.normalization,
        "drops": recipe.dropout > 0,
    }
    if recipe.arch == "mlp":
        return VariantMLP(hidden_sizes=recipe.hidden_sizes, **common)
    return VariantCNN(
        channels=recipe.channels,
        convs_per_block=recipe.convs_per_block,
        dense_size=recipe.dense_size,
        kernel=recipe.kernel,
        pooling=recipe.pooling,
        convolution=convolution,
        **common,
    )


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over windows of 2x2 with stride 2; an odd last row or column is left out.

    Example:
      >>> average_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
      [[2.5, 4.5], [10.5, 12.5]]
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def drop(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Dropout whose rate may be traced: one compiled step then serves every rate.

    Args:
      key: a JAX key.
      x: activations.
      rate: in [0, 1).

    Returns:
      ``x`` divided by ``1 - rate``, or 0 with probability ``rate``.

    Example:
      >>> drop(jax.random.key(0), jnp.ones(3), 0.0).tolist()
      [1.0, 1.0, 1.0]
    """
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


def _normalize(x, kind, train, name, axis=-1):
    if kind == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, axis=axis, name=name)(x)
    if kind == "layer":
        # Over all that one image has, as for a dense layer.
        return nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), name=name)(x)
    if kind == "group":
        return nn.GroupNorm(num_groups=GROUPS, name=name)(x)
    return x
