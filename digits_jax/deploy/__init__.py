"""Everything that takes a trained model out of here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits_jax.deploy.predictor import Predictions as Predictions
    from digits_jax.deploy.predictor import Predictor as Predictor

__all__ = ["Predictions", "Predictor"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from digits_jax.deploy import predictor

    return getattr(predictor, name)
