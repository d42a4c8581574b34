"""A trained network outside of training: predictor, ONNX, StableHLO, npz and a web page."""

from digits_jax.deploy.predictor import Predictions as Predictions
from digits_jax.deploy.predictor import Predictor as Predictor
