// Ink of a picture -> its one digit, as `read_digit` of digits_jax/vision/segment.py finds it:
// without ruled lines, noise and other pieces.

// Ruled rows as {start, stop, levels}: thin, and inked from border to border.
function findRules({ data, width, height }, noise) {
  if (height < 8 || width < 8) return [];
  const rowOf = (row) => data.subarray(row * width, (row + 1) * width);
  const isRuled = (row) =>
    row < height && quantile(rowOf(row), 0.12) > Math.max(1.2 * noise, 0.025);
  const rules = [];
  for (let row = 0; row < height; row += 1) {
    if (!isRuled(row)) continue;
    let [start, stop] = [row, row + 1];
    while (isRuled(stop)) stop += 1;
    row = stop;
    if (stop - start > Math.max(0.025 * height, 3)) continue;
    // A line's blurred sides are under the limit and still not paper.
    [start, stop] = [Math.max(start - 1, 0), Math.min(stop + 1, height)];
    const levels = [];
    for (let r = start; r < stop; r += 1) levels.push(Math.max(quantile(rowOf(r), 0.4), 0));
    rules.push({ start, stop, levels });
  }
  return rules;
}

// Removes ruled rows; `full` is the depth of ink, which stays where it crosses them.
function removeRules(depth, rules, full) {
  const { data, width, height } = depth;
  for (const { start, stop, levels } of rules) {
    const half = Math.floor((stop - start) / 2);
    const most = (row, c) => {
      if (row < 0 || row >= height) return 0;
      const from = row * width + Math.max(c - half, 0);
      return Math.max(...data.subarray(from, row * width + Math.min(c + half + 1, width)));
    };
    for (let c = 0; c < width; c += 1) {
      const across = Math.min(most(start - 1, c), most(stop, c));
      levels.forEach((level, k) => {
        const i = (start + k) * width + c;
        const trust = Math.min(Math.max((2 * (full - level)) / full - 0.5, 0), 1);
        const over = (data[i] - level) / Math.max(full - level, 0.05 * full);
        const seen = full * Math.min(Math.max(over, 0), 1);
        data[i] = trust * seen + (1 - trust) * Math.min(across, data[i]);
      });
    }
  }
  return depth;
}

// The depth of a pixel full of ink; 0 where there is none.
function fullInk(depths, noise) {
  const inked = depths.filter((value) => value > Math.max(6 * noise, FAINTEST));
  if (inked.length === 0) return 0;
  const top = quantile(inked, 0.97);
  return quantile(inked.filter((value) => value >= 0.5 * top), 0.6);
}

// The values that lie on no ruled row or column.
function offRules({ data, width }, rows, columns) {
  const on = (rules, at) => rules.some(({ start, stop }) => at >= start && at < stop);
  const ruledColumn = Array.from({ length: width }, (_, c) => on(columns, c));
  return data.filter((_, i) => !ruledColumn[i % width] && !on(rows, Math.floor(i / width)));
}

// Ink in [0, 1] of grey levels, whatever the light, the paper and the polarity; null if blank.
function findInk(grey) {
  const { depth, noise } = flattenPaper(grey);
  removeFrames(depth, Math.max(6 * noise, FAINTEST));
  const rows = findRules(depth, noise);
  const columns = findRules(transpose(depth), noise);
  let [ink, full] = [depth, fullInk(offRules(depth, rows, columns), noise)];
  if (full) {
    const turned = transpose(removeRules(depth, rows, full));
    ink = transpose(removeRules(turned, columns, full));
  } else if (rows.length || columns.length) {
    full = fullInk(depth.data, noise); // Nothing but lines: then it is a 1, cut out closely.
  }
  if (!full) return null;
  const least = Math.max(3.5 * noise, 0.08 * full);
  ink.data = ink.data.map((value) => (value < least ? 0 : Math.min(value / full, 1)));
  dropFaint(ink);
  return ink;
}

// Connected pixels over `limit`: [{pixels, weight, peak, left, top, right, bottom}].
function findPieces({ data, width, height }, limit) {
  const seen = new Uint8Array(data.length);
  const pieces = [];
  for (let first = 0; first < data.length; first += 1) {
    if (seen[first] || data[first] <= limit) continue;
    const pixels = [first];
    const piece = { pixels, weight: 0, peak: 0, left: width, top: height, right: 0, bottom: 0 };
    seen[first] = 1;
    for (let k = 0; k < pixels.length; k += 1) {
      const [c, row] = [pixels[k] % width, Math.floor(pixels[k] / width)];
      piece.weight += data[pixels[k]];
      piece.peak = Math.max(piece.peak, data[pixels[k]]);
      [piece.left, piece.right] = [Math.min(piece.left, c), Math.max(piece.right, c + 1)];
      [piece.top, piece.bottom] = [Math.min(piece.top, row), Math.max(piece.bottom, row + 1)];
      for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, height - 1); r += 1) {
        for (let x = Math.max(c - 1, 0); x <= Math.min(c + 1, width - 1); x += 1) {
          const next = r * width + x;
          if (seen[next] || data[next] <= limit) continue;
          seen[next] = 1;
          pixels.push(next);
        }
      }
    }
    pieces.push(piece);
  }
  return pieces;
}

// Removes pieces that are nowhere dark: noise, and the ringing of JPEG.
function dropFaint(ink) {
  for (const { pixels, peak } of findPieces(ink, 0)) {
    if (peak < 0.45) for (const i of pixels) ink.data[i] = 0;
  }
}

function longestSide({ left, top, right, bottom }) {
  return Math.max(right - left, bottom - top);
}

// Whether a piece runs along the picture's border.
function isFrame({ left, top, right, bottom }, width, height) {
  const sides = (left === 0) + (top === 0) + (right === width) + (bottom === height);
  return sides >= 2 && (right - left > 0.9 * width || bottom - top > 0.9 * height);
}

function gapBetween(a, b) {
  const across = Math.max(b.left - a.right, a.left - b.right, 0);
  return Math.hypot(across, Math.max(b.top - a.bottom, a.top - b.bottom, 0));
}

function union(a, b) {
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

// The pieces of the one digit: the heaviest, and those near it that aren't tiny.
function choosePieces(pieces) {
  const [main, ...others] = pieces;
  let [kept, box, rest] = [[main], main, others.filter((p) => p.weight > 0.012 * main.weight)];
  for (;;) {
    const isNear = (piece) => {
      const reach = piece.weight > 0.1 * main.weight ? 0.25 : 0.12;
      return gapBetween(piece, box) <= reach * longestSide(main);
    };
    const near = rest.find(isNear);
    if (!near) return kept;
    kept = [...kept, near];
    box = union(near, box);
    rest = rest.filter((piece) => piece !== near);
  }
}

// The one digit of a picture as ink, cut out; null where there is none.
function readDigit(grey) {
  const ink = findInk(grey);
  if (!ink) return null;
  const found = findPieces(ink, INK_THRESHOLD);
  const inside = found.filter((piece) => !isFrame(piece, ink.width, ink.height));
  const least = Math.max(3, 0.008 * Math.max(ink.width, ink.height));
  const pieces = (inside.length ? inside : found)
    .filter((piece) => longestSide(piece) >= least)
    .sort((a, b) => b.weight - a.weight);
  if (pieces.length === 0) return null;
  const digit = newInk(ink.width, ink.height);
  for (const { pixels } of choosePieces(pieces)) {
    for (const i of pixels) digit.data[i] = ink.data[i];
  }
  return cutOut(digit);
}
