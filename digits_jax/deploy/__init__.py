"""A trained network outside of training: predictor, ONNX, StableHLO, npz and a web page."""

from digits_jax.deploy.predictions import Digit as Digit
from digits_jax.deploy.predictions import Line as Line
from digits_jax.deploy.predictions import Predictions as Predictions
from digits_jax.deploy.predictor import Predictor as Predictor
