"""MLP and CNN: parameter counts by hand, training by NumPy, and build_model.

Their logits are compared with NumPy's in tests/deploy/test_network.py.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.errors import ConfigError
from digits_jax.models.build import build_model
from digits_jax.models.cnn import CNN, POOLS
from digits_jax.models.mlp import MLP, normalize


def shapes(module, image_shape=(28, 28, 1)):
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def random_variables(module, image_shape):
    """Parameters and statistics that leave no term at 0 or 1."""
    random = np.random.default_rng(3)
    return jax.tree.map(
        lambda leaf: (
            random.uniform(0.2, 1.2, leaf.shape).astype(np.float32) - 0.5 * (leaf.ndim > 1)
        ),
        shapes(module, image_shape),
    )


# Dense: inputs * outputs + outputs; convolution: 3 * 3 * inputs * outputs (+ outputs). With
# BatchNorm, a scale and a bias instead of the layer's own bias.
COUNTS = [
    (MLP(), 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
    (MLP(batch_norm=True), 784 * 512 + 2 * 512 + 512 * 512 + 2 * 512 + 512 * 10 + 10),
    (MLP(hidden_sizes=(3,), num_classes=26), 784 * 3 + 3 + 3 * 26 + 26),
    # 28x28 -> 14x14x4 -> pooled 7x7 -> pooled 3x3x64 = 576.
    (CNN(), 36 * 32 + 64 + 288 * 64 + 128 + 576 * 128 + 256 + 128 * 10 + 10),
    # 28x28x1 -> 14x14 -> 7x7x64 = 3136.
    (CNN(space_to_depth=False), 9 * 32 + 64 + 288 * 64 + 128 + 3136 * 128 + 256 + 1290),
    (
        CNN(channels=(8,), convs_per_block=2, dense_size=5),
        36 * 8 + 16 + 72 * 8 + 16 + 7 * 7 * 8 * 5 + 10 + 5 * 10 + 10,
    ),
]


@pytest.mark.parametrize(("module", "count"), COUNTS, ids=map(str, range(len(COUNTS))))
def test_parameter_counts(module, count):
    leaves = jax.tree.leaves(shapes(module)["params"])
    assert sum(leaf.size for leaf in leaves) == count


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("make", [MLP, CNN])
def test_dtype_changes_the_products_only(make, dtype):
    module = make(dtype=dtype, batch_norm=True)
    variables = shapes(module)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    logits = jax.eval_shape(module.apply, variables, images)
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
    # The first layer's product is where most of the time goes.
    jaxpr = str(jax.make_jaxpr(module.apply)(variables, images))
    assert ("bf16" in jaxpr) == (dtype == jnp.bfloat16)


def test_training_normalizes_over_the_batch_and_keeps_running_statistics():
    module = MLP(num_classes=3, hidden_sizes=(5,), batch_norm=True)
    variables = random_variables(module, (2, 3, 1))
    params, old = variables["params"], variables["batch_stats"]["norm_0"]
    images = np.random.default_rng(0).random((7, 2, 3, 1), dtype=np.float32)
    x = images.reshape(7, 6) @ params["hidden_0"]["kernel"]
    batch = {"mean": x.mean(0), "var": x.var(0)}
    x = (x - batch["mean"]) / np.sqrt(batch["var"] + 1e-5)
    hidden = np.maximum(x * params["norm_0"]["scale"] + params["norm_0"]["bias"], 0)
    expected = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    apply = jax.jit(partial(module.apply, train=True, mutable=["batch_stats"]))
    logits, changed = apply(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        running = changed["batch_stats"]["norm_0"][name]
        np.testing.assert_allclose(running, 0.9 * old[name] + 0.1 * batch[name], rtol=1e-4)


def test_dropout_acts_in_training_only():
    module = CNN(channels=(2,), dense_size=40, dropout=0.75)
    variables = random_variables(module, (8, 8, 1))
    images = np.random.default_rng(0).random((3, 8, 8, 1), dtype=np.float32)

    @jax.jit
    def trained(key):
        rngs = {"dropout": key}
        return module.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    first, second = trained(jax.random.key(0)), trained(jax.random.key(1))
    assert (np.asarray(first) != np.asarray(second)).any()
    without = module.clone(dropout=0.0)
    expected = jax.jit(without.apply)(variables, images)
    np.testing.assert_array_equal(jax.jit(module.apply)(variables, images), expected)


@pytest.mark.parametrize(
    "module",
    [
        MLP(26, (64, 32), 0.25, batch_norm=False, dtype=jnp.dtype("bfloat16")),
        CNN(10, (8,), 2, 16, 0.25, convolution="matmul", shards=4, dtype=jnp.dtype("float32")),
    ],
)
def test_build_model(module):
    settings = {name: value for name, value in vars(module).items() if name[0] != "_"}
    settings |= {"arch": type(module).__name__.lower(), "dtype": module.dtype.name, "seed": 3}
    assert build_model(settings, module.num_classes, shards=getattr(module, "shards", 1)) == module


def test_build_model_refuses_another_arch():
    with pytest.raises(ConfigError, match="arch='rnn'"):
        build_model({"arch": "rnn", "batch_norm": True}, 10)


# --- what the studies vary -----------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", [True, False])
def test_norm_means_the_same_as_batch_norm(batch_norm):
    norm = "batch" if batch_norm else "none"
    assert shapes(CNN(batch_norm=batch_norm)) == shapes(CNN(norm=norm))


@pytest.mark.parametrize("convolution", ["lax", "matmul"])
@pytest.mark.parametrize(
    "change", [{"kernel_size": 5}, {"pool": "average"}, {"pool": "stride"}, {"norm": "layer"}]
)
def test_variants_keep_the_size_of_the_feature_maps(change, convolution):
    module = CNN(channels=(4, 4), dense_size=8, convolution=convolution, **change)
    assert shapes(module)["params"]["dense"]["kernel"].shape == (3 * 3 * 4, 8)


def test_layer_and_group_norm_by_numpy():
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 8)).astype(np.float32)

    class Norm(nn.Module):
        kind: str

        @nn.compact
        def __call__(self, x):
            return normalize(self.kind, x, train=True, axis_name=None, name="norm")

    for kind, groups in (("layer", 1), ("group", 4)):
        own = x.reshape(3, 4, groups, 8 // groups)
        mean, var = (f(own, (1, 3), keepdims=True) for f in (np.mean, np.var))
        expected = ((own - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
        found, _ = Norm(kind).init_with_output(jax.random.key(0), x)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("pool", "reduce"), [("average", np.mean), ("stride", lambda x, _: x)])
def test_other_pools_by_numpy(pool, reduce):
    x = np.random.default_rng(0).random((2, 5, 4, 3), np.float32)
    side = 2 if pool == "average" else 1
    expected = [
        [reduce(x[:, i : i + side, j : j + side], (1, 2)).reshape(2, 3) for j in (0, 2)]
        for i in (0, 2)
    ]
    np.testing.assert_allclose(POOLS[pool](x), np.transpose(expected, (2, 0, 1, 3)), rtol=1e-6)
