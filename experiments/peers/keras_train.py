"""Our recipe as a Keras user would write it: python -m experiments.peers.keras_train

The backend is that of KERAS_BACKEND, by default JAX. The augmentation isn't written here: Keras's
layers turn, scale and move an image one after another, which is another policy.
"""

import math
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from experiments.peers.flags import parse_flags
from experiments.peers.mnist import read_mnist
from experiments.peers.server import serve

layers = keras.layers
ENDLESS = 10**6  # steps of the schedule, where `compare` says how many there are


def make_model(args) -> keras.Model:
    """The net, from uint8 images [batch, 28, 28] to logits."""
    norm = not args.no_batch_norm
    parts = [keras.Input((28, 28), dtype="uint8"), layers.Rescaling(1 / 255)]
    if args.arch == "cnn":
        # 2x2 pixels into the channels.
        parts += [layers.Reshape((14, 2, 14, 2)), layers.Permute((1, 3, 2, 4))]
        parts.append(layers.Reshape((14, 14, 4)))
        for size in args.channels:
            for place in range(args.convs_per_block):
                parts.append(layers.Conv2D(size, 3, padding="same", use_bias=not norm))
                if place == args.convs_per_block - 1:
                    parts.append(layers.MaxPooling2D())
                parts += _norm_and_relu(norm)
    parts.append(layers.Flatten())
    dense_sizes = (args.dense_size,) if args.arch == "cnn" else args.hidden_sizes
    for size in filter(None, dense_sizes):
        parts += [layers.Dense(size, use_bias=not norm), *_norm_and_relu(norm)]
        parts += [layers.Dropout(args.dropout)] if args.dropout else []
    return keras.Sequential([*parts, layers.Dense(10, dtype="float32")])


def _norm_and_relu(norm):
    normed = [layers.BatchNormalization(momentum=0.9, epsilon=1e-5)] if norm else []
    return [*normed, layers.ReLU()]


def compile_model(model: keras.Model, total_steps: int, args) -> None:
    """Optimizer and loss."""
    rate = keras.optimizers.schedules.CosineDecay(
        args.learning_rate / 25,
        total_steps - total_steps // 10,
        warmup_target=args.learning_rate,
        warmup_steps=total_steps // 10,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=args.weight_decay, epsilon=1e-8)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=args.label_smoothing
    )
    model.compile(optimizer, loss, metrics=["accuracy"])


def main(argv: list[str]) -> None:
    """Trains and scores; or runs steps as it is told."""
    started = time.perf_counter()
    args = parse_flags(argv, __doc__)
    if args.affine:
        sys.exit("the augmentation isn't written in Keras; leave --affine out")
    keras.utils.set_random_seed(args.seed)
    if args.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    images, labels, test_images, test_labels = read_mnist(args.data_dir)
    labels, test_labels = (keras.utils.to_categorical(a, 10) for a in (labels, test_labels))
    steps = math.ceil(args.epochs * len(labels) / args.batch_size)
    model = make_model(args)
    compile_model(model, ENDLESS if args.worker else steps, args)

    def run_steps(count):
        left = count * args.batch_size
        while left > 0:  # fit takes an epoch at most; part of one is some of the images
            some = min(left, len(labels))
            model.fit(images[:some], labels[:some], batch_size=args.batch_size, verbose=0)
            left -= some

    if args.worker:
        run_steps(5)
        serve(run_steps, backend=keras.backend.backend(), pid=os.getpid())
        return
    train_started = time.perf_counter()
    run_steps(steps)
    seconds = time.perf_counter() - train_started
    reached = model.evaluate(test_images, test_labels, batch_size=1000, verbose=0)[1]
    whole = time.perf_counter() - started
    print(f"test accuracy {reached:.2%}; training {seconds:.2f} s, of {whole:.2f} s since imports")


if __name__ == "__main__":
    main(sys.argv[1:])
