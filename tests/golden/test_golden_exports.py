"""Exported networks answer as they did before the redesign."""

import drawing
import numpy as np
import pytest
from machine import HERE, same_machine
from records import NETWORKS, SETTINGS, exports, variables

# onnx and onnxruntime have warnings of their own on a newer NumPy.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")
TOLERANCE = 1e-4
# int8 on another processor: onnxruntime rounds elsewhere, by a share of the largest logit.
INT8_SHARE = 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_exports(name, tmp_path):
    pytest.importorskip("onnxruntime")
    with np.load(HERE / "exports.npz") as stored:
        for part in NETWORKS[name]:
            digest = drawing.digest(*variables(part).values())
            assert digest == str(stored[f"{part}/variables"]), f"{part}: other parameters are drawn"
        found = exports(name, tmp_path)
        ways = {path.split("/")[1] for path in stored.files if path.startswith(f"{name}/")}
        assert set(found) == ways - {"variables"}
        for way, logits in found.items():
            wanted = stored[f"{name}/{way}"]
            atol = TOLERANCE
            if way == "int8" and not same_machine():
                atol = INT8_SHARE * np.abs(wanted).max()
            np.testing.assert_allclose(logits, wanted, rtol=0, atol=atol, err_msg=f"{name}/{way}")


def test_no_export_is_trivial():
    with np.load(HERE / "exports.npz") as stored:
        for name in SETTINGS:
            assert stored[f"{name}/module"].std(0).min() > 0.01
