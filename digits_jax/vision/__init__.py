"""Pictures of digits to 28x28 arrays: NumPy, SciPy and Pillow, no network.

`decode.py` turns a file into grey levels, `ink.py` (with `paper.py`, `frames.py`, `ruled.py`)
grey levels into ink, `segment.py` (with `touching.py`) ink into digits, `digit.py` a digit into
28x28.

grey: uint8 [height, width], 0 black and 255 white, of either polarity.
depth: float32 [h, w], how far a pixel is from the paper, as a share of the light there.
ink: float32 [h, w] in [0, 1], how much ink each pixel holds; 0 is paper.
box: (left, top, right, bottom) in pixels; right and bottom are outside of it.
"""
