"""The command line that the peers share; `compare` fills it in from our recipes."""

import argparse


def parse_flags(argv: list[str], doc: str) -> argparse.Namespace:
    """The settings of a peer's run; by default those of our quick CNN.

    Args:
      argv: the arguments, without the program's name.
      doc: the program's description.
    """
    parser = argparse.ArgumentParser(description=doc)
    add = parser.add_argument
    add("--data-dir", required=True, help="folder of MNIST's four .gz files")
    add("--arch", choices=("cnn", "mlp"), default="cnn")
    add("--channels", type=_sizes, default=(24, 48))
    add("--convs-per-block", type=int, default=1)
    add("--dense-size", type=int, default=128)
    add("--hidden-sizes", type=_sizes, default=(512, 512))
    add("--no-batch-norm", action="store_true")
    add("--epochs", type=float, default=1.5)
    add("--batch-size", type=int, default=256)
    add("--learning-rate", type=float, default=0.025)
    add("--weight-decay", type=float, default=0.01)
    add("--label-smoothing", type=float, default=0.1)
    add("--dropout", type=float, default=0.0)
    words = "augment: rotation in degrees, scale factor, shear in degrees, shift in pixels"
    add("--affine", type=_numbers, default=(), metavar="R,S,H,P", help=words)
    add("--seed", type=int, default=0)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--channels-last", action="store_true", help="PyTorch: NHWC in memory")
    add("--compile", action="store_true", help="PyTorch: torch.compile")
    add("--worker", action="store_true", help="run steps as stdin asks; see server.py")
    return parser.parse_args(argv)


def _sizes(text):
    return tuple(int(word) for word in text.split(","))


def _numbers(text):
    return tuple(float(word) for word in text.split(","))
