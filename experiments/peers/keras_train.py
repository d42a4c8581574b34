"""Our recipe as a Keras user would write it: python -m experiments.peers.keras_train RECIPE

The backend is that of KERAS_BACKEND, by default JAX. The augmentation isn't written here: Keras's
layers turn, scale and move an image one after another, which is another policy.
"""

import math
import os
import sys
import time
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from experiments.peers.common import ENDLESS, read_mnist, read_recipe, serve

layers = keras.layers


def make_model(recipe: Any) -> keras.Model:
    """Makes the network, from uint8 images [batch, 28, 28] to logits."""
    norm = recipe.batch_norm
    parts = [keras.Input((28, 28), dtype="uint8"), layers.Rescaling(1 / 255)]
    if recipe.arch == "cnn":
        # 2x2 pixels into the channels.
        parts += [layers.Reshape((14, 2, 14, 2)), layers.Permute((1, 3, 2, 4))]
        parts.append(layers.Reshape((14, 14, 4)))
        for size in recipe.channels:
            for place in range(recipe.convs_per_block):
                parts.append(layers.Conv2D(size, 3, padding="same", use_bias=not norm))
                if place == recipe.convs_per_block - 1:
                    parts.append(layers.MaxPooling2D())
                parts += _norm_and_relu(norm)
    parts.append(layers.Flatten())
    dense_sizes = (recipe.dense_size,) if recipe.arch == "cnn" else recipe.hidden_sizes
    for size in filter(None, dense_sizes):
        parts += [layers.Dense(size, use_bias=not norm), *_norm_and_relu(norm)]
        parts += [layers.Dropout(recipe.dropout)] if recipe.dropout else []
    return keras.Sequential([*parts, layers.Dense(10, dtype="float32")])


def _norm_and_relu(norm: bool) -> list[Any]:
    normed = [layers.BatchNormalization(momentum=0.9, epsilon=1e-5)] if norm else []
    return [*normed, layers.ReLU()]


def compile_model(model: keras.Model, total_steps: int, recipe: Any) -> None:
    """Sets the optimizer and the loss."""
    rate: Any = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 25,
        total_steps - total_steps // 10,
        warmup_target=recipe.learning_rate,
        warmup_steps=total_steps // 10,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )
    model.compile(optimizer, loss, metrics=["accuracy"])


def main(argv: list[str]) -> None:
    """Trains and scores; or takes steps when asked to."""
    recipe = read_recipe(argv)
    if recipe.affine:
        sys.exit("the augmentation isn't written in Keras; leave affine empty")
    keras.utils.set_random_seed(recipe.seed)
    if recipe.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images, labels, test_images, test_labels = read_mnist(recipe.data_dir)
    labels, test_labels = (keras.utils.to_categorical(a, 10) for a in (labels, test_labels))
    steps = math.ceil(recipe.epochs * len(labels) / recipe.batch_size)
    model: Any = make_model(recipe)
    compile_model(model, ENDLESS if recipe.worker else steps, recipe)

    def run_steps(count: int) -> None:
        left = count * recipe.batch_size
        while left > 0:  # fit takes an epoch at most; part of one is some of the images
            some = min(left, len(labels))
            model.fit(images[:some], labels[:some], batch_size=recipe.batch_size, verbose=0)
            left -= some

    if recipe.worker:
        run_steps(5)
        serve(run_steps, backend=keras.backend.backend())
        return
    started = time.perf_counter()
    run_steps(steps)
    seconds = time.perf_counter() - started
    reached = model.evaluate(test_images, test_labels, batch_size=1000, verbose=0)[1]
    print(f"test accuracy {reached:.2%}; training {seconds:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
