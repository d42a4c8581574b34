// Ink -> the 28x28 that MNIST uses: what `place_digit` of digits_jax/vision/digit.py does.
// Ink is {data: Float32Array in [0, 1], width, height}; 0 is paper.

const BOX = 20;
const FINE = 80; // pixels of the longest side where strokes are measured and changed
const INK_THRESHOLD = 0.1;
// Stroke widths in pixels of the 20x20 box: those outside the limits are brought inside.
const THIN = 1.7;
const FROM_THIN = 2.1;
const THICK = 3.9;
const FROM_THICK = 3.4;

function newInk(width, height) {
  return { data: new Float32Array(width * height), width, height };
}

// As Python rounds: halves to the even neighbour.
function roundToEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// The box of all pixels over the threshold; null where there are none.
function cutOut({ data, width, height }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let row = 0, i = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1, i += 1) {
      if (data[i] <= INK_THRESHOLD) continue;
      if (column < left) left = column;
      if (column > right) right = column;
      if (top > row) top = row;
      bottom = row;
    }
  }
  if (right < 0) return null;
  const box = newInk(right - left + 1, bottom - top + 1);
  for (let row = 0; row < box.height; row += 1) {
    const from = (top + row) * width + left;
    box.data.set(data.subarray(from, from + box.width), row * box.width);
  }
  return box;
}

// For each of `size` new pixels, the first old one that it averages and the weights from there on.
function areaWeights(old, size) {
  const step = old / size;
  return Array.from({ length: size }, (_, i) => {
    const first = Math.floor(i * step);
    const weights = [];
    for (let j = first; j < Math.min((i + 1) * step, old); j += 1) {
      weights.push((Math.min((i + 1) * step, j + 1) - Math.max(i * step, j)) / step);
    }
    return { first, weights };
  });
}

function bilinearWeights(old, size) {
  return Array.from({ length: size }, (_, i) => {
    const where = Math.min(Math.max(((i + 0.5) * old) / size - 0.5, 0), old - 1);
    const first = Math.min(Math.floor(where), Math.max(old - 2, 0));
    const weights = old > 1 ? [1 - (where - first), where - first] : [1];
    return { first, weights };
  });
}

function scaleRows({ data, width }, rows) {
  const scaled = newInk(width, rows.length);
  rows.forEach(({ first, weights }, row) => {
    weights.forEach((weight, k) => {
      const from = (first + k) * width;
      for (let c = 0; c < width; c += 1) scaled.data[row * width + c] += weight * data[from + c];
    });
  });
  return scaled;
}

function transpose({ data, width, height }) {
  const turned = newInk(height, width);
  for (let row = 0; row < height; row += 1) {
    for (let c = 0; c < width; c += 1) turned.data[c * height + row] = data[row * width + c];
  }
  return turned;
}

// Scaled so that the longest side is `longest`: by areas, or bilinear where `smooth` enlarges.
function scaleTo(ink, longest, smooth) {
  const factor = longest / Math.max(ink.width, ink.height);
  const [rows, columns] = [ink.height, ink.width].map((old) => {
    const size = Math.max(roundToEven(old * factor), 1);
    return (smooth && size > old ? bilinearWeights : areaWeights)(old, size);
  });
  return transpose(scaleRows(transpose(scaleRows(ink, rows)), columns));
}

// Divided by its maximum.
function normalise(ink) {
  const most = ink.data.reduce((a, b) => Math.max(a, b), 0);
  for (let i = 0; i < ink.data.length; i += 1) ink.data[i] /= most;
  return ink;
}

// The ink with `margin` pixels of paper around it.
function pad(ink, margin) {
  const padded = newInk(ink.width + 2 * margin, ink.height + 2 * margin);
  for (let row = 0; row < ink.height; row += 1) {
    const from = ink.data.subarray(row * ink.width, (row + 1) * ink.width);
    padded.data.set(from, (row + margin) * padded.width + margin);
  }
  return padded;
}

// Twice the area over the length of the outline, in pixels.
function strokeWidth(ink) {
  const { data, width, height } = pad(ink, 1);
  let [area, outline] = [0, 0];
  for (let row = 0; row < height - 1; row += 1) {
    for (let i = row * width; i < (row + 1) * width - 1; i += 1) {
      area += data[i];
      outline += Math.hypot(data[i + 1] - data[i], data[i + width] - data[i]);
    }
  }
  return (2 * area) / Math.max(outline, 1e-9);
}

// Each pixel becomes the greatest (`choose` is Math.max) or least within `radius` of it.
function spread(ink, radius, choose) {
  const reach = Math.ceil(radius);
  const from = pad(ink, 2 * reach);
  const to = newInk(ink.width + 2 * reach, ink.height + 2 * reach);
  to.data.fill(choose(0, 1) ? 0 : 1);
  for (let y = -reach; y <= reach; y += 1) {
    for (let x = -reach; x <= reach; x += 1) {
      if (y * y + x * x > radius * radius) continue;
      for (let row = 0; row < to.height; row += 1) {
        const start = (row + reach + y) * from.width + reach + x;
        for (let c = 0, i = row * to.width; c < to.width; c += 1, i += 1) {
          to.data[i] = choose(to.data[i], from.data[start + c]);
        }
      }
    }
  }
  return to;
}

// The box with strokes of a usual width.
function adjustStrokes(ink) {
  const fine = normalise(scaleTo(ink, FINE, true));
  const width = (strokeWidth(fine) * BOX) / FINE;
  if (width >= THIN && width <= THICK) return ink;
  const target = width < THIN ? FROM_THIN : FROM_THICK;
  const radius = ((Math.abs(width - target) / 2 / (1 - target / BOX)) * FINE) / BOX;
  return cutOut(spread(fine, radius, width < THIN ? Math.max : Math.min)) ?? ink;
}

// Where a side of the box begins, so that its centre of mass comes to the middle of 28 pixels.
function placeSide(masses) {
  const mass = masses.reduce((a, b) => a + b, 0);
  const centre = masses.reduce((sum, m, i) => sum + m * (i + 0.5), 0) / mass;
  const start = Math.floor(SIDE / 2 - centre + 0.5);
  return Math.min(Math.max(start, 0), SIDE - masses.length);
}

// The models' 28x28 input: Uint8Array, 0 paper and 255 ink; null where there is no ink.
function placeDigit(data, width, height) {
  const box = cutOut({ data, width, height });
  if (!box) return null;
  const small = normalise(scaleTo(adjustStrokes(box), BOX, false));
  const rows = new Float64Array(small.height);
  const columns = new Float64Array(small.width);
  small.data.forEach((value, i) => {
    rows[Math.floor(i / small.width)] += value;
    columns[i % small.width] += value;
  });
  const [top, left] = [placeSide(rows), placeSide(columns)];
  const pixels = new Uint8Array(SIDE * SIDE);
  small.data.forEach((value, i) => {
    const row = top + Math.floor(i / small.width);
    pixels[row * SIDE + left + (i % small.width)] = Math.floor(255 * value + 0.5);
  });
  return pixels;
}
