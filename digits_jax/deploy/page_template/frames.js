// Frames about digits: what `find_frames` of digits_jax/vision/frames.py finds.

const LOWEST_FRAME = 12; // pixels
const ENCLOSED = 0.2; // the height of what a frame encloses, in those of the hollow
const RECTANGULAR = 0.88; // shares of the bounding box that a box fills, and a circle's width
const ROUND = 0.7;
const WALL = 0.05; // of a hollow's height: so far from its sides a touching digit is found

// The areas that a piece encloses, as lists of pixels of the picture; connected by their sides.
function findHollows(piece, labels, number, width) {
  const [wide, high] = [piece.right - piece.left, piece.bottom - piece.top];
  const seen = new Uint8Array(wide * high);
  const indexOf = (i) => (piece.top + Math.floor(i / wide)) * width + piece.left + (i % wide);
  const hollows = [];
  for (let first = 0; first < seen.length; first += 1) {
    if (seen[first] || labels[indexOf(first)] === number) continue;
    const area = { pixels: [], left: width, top: Infinity, right: 0, bottom: 0, open: false };
    const waiting = [first];
    seen[first] = 1;
    while (waiting.length) {
      const i = waiting.pop();
      const [row, c] = [Math.floor(i / wide), i % wide];
      if (row === 0 || c === 0 || row === high - 1 || c === wide - 1) area.open = true;
      area.pixels.push(indexOf(i));
      const [x, y] = [piece.left + c, piece.top + row];
      [area.left, area.right] = [Math.min(area.left, x), Math.max(area.right, x + 1)];
      [area.top, area.bottom] = [Math.min(area.top, y), Math.max(area.bottom, y + 1)];
      const besides = [[c > 0, i - 1], [c < wide - 1, i + 1], [row > 0, i - wide],
        [row < high - 1, i + wide]];
      for (const [inside, next] of besides) {
        if (!inside || seen[next] || labels[indexOf(next)] === number) continue;
        seen[next] = 1;
        waiting.push(next);
      }
    }
    if (!area.open) hollows.push(area);
  }
  return hollows;
}

// The height of the highest piece of ink in a hollow.
function highestInside(hollow, labels, width) {
  const ends = new Map();
  for (const i of hollow.pixels) {
    if (!labels[i]) continue;
    const row = Math.floor(i / width);
    const [top, bottom] = ends.get(labels[i]) ?? [row, row];
    ends.set(labels[i], [Math.min(top, row), Math.max(bottom, row)]);
  }
  return Math.max(0, ...[...ends.values()].map(([top, bottom]) => bottom - top + 1));
}

// The part of a hollow off its sides as {left, top, right, bottom}, where the walls' own ink there
// is as high as a digit: one that touches them; else null.
function touchingPart(hollow, labels, number, width) {
  const height = hollow.bottom - hollow.top;
  const margin = Math.max(roundToEven(WALL * height), 1);
  const part = {
    left: hollow.left + margin,
    top: hollow.top + margin,
    right: hollow.right - margin,
    bottom: hollow.bottom - margin,
  };
  if (part.right <= part.left || part.bottom <= part.top) return null;
  const own = newInk(part.right - part.left, part.bottom - part.top);
  own.data = own.data.map((_, i) => {
    const row = part.top + Math.floor(i / own.width);
    return Number(labels[row * width + part.left + (i % own.width)] === number);
  });
  const high = Math.max(0, ...findPieces(own, 0).map(({ top, bottom }) => bottom - top));
  return high >= ENCLOSED * height ? part : null;
}

// Removes frames from the depth of a picture: hollow pieces about other ink, off the border.
function removeFrames({ data, width, height }, limit) {
  const pieces = findPieces({ data, width, height }, limit);
  const labels = new Int32Array(data.length);
  pieces.forEach(({ pixels }, k) => pixels.forEach((i) => (labels[i] = k + 1)));
  const [sizes, empty] = [[], []];
  const remove = (piece, spared) => {
    for (const i of piece.pixels) {
      const [row, c] = [Math.floor(i / width), i % width];
      const isSpared = ({ left, top, right, bottom }) =>
        c >= left && c < right && row >= top && row < bottom;
      if (!spared.some(isSpared)) data[i] = 0;
    }
  };
  pieces.forEach((piece, k) => {
    const [wide, high] = [piece.right - piece.left, piece.bottom - piece.top];
    const atBorder =
      piece.left === 0 || piece.top === 0 || piece.right === width || piece.bottom === height;
    if (atBorder || high < LOWEST_FRAME || wide < (ROUND * high) / 2) return;
    if (piece.pixels.length > 0.5 * wide * high) return;
    const hollows = findHollows(piece, labels, k + 1, width);
    const hollow = hollows.reduce((sum, { pixels }) => sum + pixels.length, 0);
    const rectangular = piece.pixels.length + hollow > RECTANGULAR * wide * high;
    if (hollow < 0.4 * wide * high || !(rectangular || wide > ROUND * high)) return;
    const spared = rectangular
      ? hollows.map((each) => touchingPart(each, labels, k + 1, width)).filter(Boolean)
      : [];
    const encloses = hollows.some(
      (each) => highestInside(each, labels, width) >= ENCLOSED * (each.bottom - each.top),
    );
    if (encloses || spared.length) {
      remove(piece, spared);
      sizes.push([wide, high]);
    } else empty.push({ piece, wide, high });
  });
  for (const { piece, wide, high } of empty) {
    const isLike = ([w, h]) => Math.abs(w / wide - 1) < 0.1 && Math.abs(h / high - 1) < 0.1;
    if (sizes.some(isLike)) remove(piece, []);
  }
}
