"""Records the golden results from the code that is here: python tests/golden/generate.py [PART...]

The parts are trainings, comparison, pictures and exports; all of them where none is given.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import drawing
import machine
import numpy as np
import records
import trainings

HERE = Path(__file__).resolve().parent


def _write(name, value):
    """JSON with one line per entry of the two outer levels."""
    lines = []
    for key, inner in value.items():
        rows = inner if isinstance(inner, list) else [inner]
        text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        text = f"[\n{text}\n]" if isinstance(inner, list) else text
        lines.append(f"{json.dumps(key)}:{text}")
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def make_trainings():
    """trainings.json and trainings.npz."""
    found = trainings.run(list(trainings.TRAININGS))
    _write("trainings.json", {name: record.numbers for name, record in found.items()})
    logits = {name: record.logits for name, record in found.items()}
    np.savez_compressed(HERE / "trainings.npz", **logits)


def make_comparison():
    """comparison.json."""
    _write("comparison.json", {name: records.comparison(name) for name in records.COMPARISONS})


def make_pictures():
    """pictures.json and pictures.npz."""
    score, found, kept = drawing.make_score(), {}, {}
    for mode in drawing.COUNTS:
        rows = []
        for index, (kind, written, digest, data) in enumerate(records.inputs(mode)):
            row, images = records.read(data, mode, score)
            rows.append({"kind": kind, "written": written, "input": digest, **row})
            if mode == "digit" and index % records.KEPT_EVERY == 0 and images:
                kept[f"digit-{index}"] = images[0]
        found[mode] = rows
    _write("pictures.json", found)
    np.savez_compressed(HERE / "pictures.npz", **kept)


def make_exports():
    """exports.npz."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: records.exports(name, Path(folder)) for name in records.NETWORKS}
    arrays = {
        f"{name}/{way}": logits for name, ways in found.items() for way, logits in ways.items()
    }
    for name in records.SETTINGS:
        arrays[f"{name}/variables"] = np.array(drawing.digest(*records.variables(name).values()))
    np.savez_compressed(HERE / "exports.npz", **arrays)


PARTS = {
    "trainings": make_trainings,
    "comparison": make_comparison,
    "pictures": make_pictures,
    "exports": make_exports,
}


def main(names):
    """Records the parts and the machine's key."""
    for name in names or PARTS:
        PARTS[name]()
    key = machine.machine_key()
    (HERE / "machine.json").write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
