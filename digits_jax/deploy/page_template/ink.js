// Grey levels -> ink: what `find_ink` of digits_jax/vision/ink.py does; ruled lines must be level.
// Pictures are {data: Float32Array, width, height}.

const FAINTEST = 0.06; // less contrast than this is no ink

// As NumPy's: linear between the two nearest ranks.
function quantile(values, share) {
  const sorted = Float32Array.from(values).sort();
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
}

// Solves a small system of linear equations by elimination; `rows` are [coefficients..., value].
function solve(rows) {
  const n = rows.length;
  for (let i = 0; i < n; i += 1) {
    const pivot = rows.slice(i).reduce((a, b) => (Math.abs(b[i]) > Math.abs(a[i]) ? b : a));
    rows[rows.indexOf(pivot)] = rows[i];
    rows[i] = pivot;
    for (const row of rows.slice(i + 1)) {
      const share = row[i] / pivot[i];
      for (let j = i; j <= n; j += 1) row[j] -= share * pivot[j];
    }
  }
  const solution = new Array(n).fill(0);
  for (let i = n - 1; i >= 0; i -= 1) {
    const known = solution.reduce((sum, value, j) => sum + value * rows[i][j], 0);
    solution[i] = (rows[i][n] - known) / rows[i][i];
  }
  return solution;
}

function surfaceTerms(x, y) {
  return [1, x, y, x * x, x * y, y * y];
}

function valueOf(fit, terms) {
  return fit.reduce((sum, factor, i) => sum + factor * terms[i], 0);
}

// Reweighted least squares with the first `order` terms: outliers have no weight.
function fitSurface(points, start, order, rounds) {
  let [fit, spread] = [start, 0];
  for (let round = 0; round < rounds; round += 1) {
    const rests = points.map(({ terms, value }) => Math.abs(value - valueOf(fit, terms)));
    spread = Math.max(quantile(rests, 0.3) / 0.385, 1.5);
    const rows = Array.from({ length: order }, () => new Array(order + 1).fill(0));
    points.forEach(({ terms, value }, p) => {
      const weight = Math.max(1 - (rests[p] / (5 * spread)) ** 2, 0) ** 2;
      for (let i = 0; i < order && weight > 0; i += 1) {
        for (let j = 0; j < order; j += 1) rows[i][j] += weight * terms[i] * terms[j];
        rows[i][order] += weight * terms[i] * value;
      }
    });
    // A little ridge: where paper is seen in a corner only, the surface stays level.
    const ridge = 1e-3 * rows[0][0] + 1e-6;
    for (let i = 1; i < order; i += 1) rows[i][i] += ridge;
    if (rows[0][0] < 1e-6) return { fit, spread };
    fit = [...solve(rows), ...new Array(6 - order).fill(0)];
  }
  return { fit, spread };
}

function place(index, size) {
  return size > 1 ? (2 * index) / (size - 1) - 1 : 0;
}

// The paper's light as a quadratic surface: fitted to the border, then to all that lies near it.
function fitPaper(grey, step) {
  const [points, ring] = [[], []];
  const margin = Math.max(Math.round(0.04 * Math.min(grey.width, grey.height)), 1);
  for (let row = 0; row < grey.height; row += step) {
    for (let c = 0; c < grey.width; c += step) {
      const terms = surfaceTerms(place(c, grey.width), place(row, grey.height));
      const point = { terms, value: grey.data[row * grey.width + c] };
      points.push(point);
      const edge = Math.min(row, c, grey.height - 1 - row, grey.width - 1 - c);
      if (edge < margin) ring.push(point);
    }
  }
  const level = quantile(ring.map(({ value }) => value), 0.5);
  const { fit } = fitSurface(ring, [level, 0, 0, 0, 0, 0], 3, 6);
  return fitSurface(points, fit, 6, 5);
}

// Values averaged over 2 * radius + 1 neighbours in a row.
function blurRows({ data, width, height }, radius) {
  const blurred = newInk(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let c = 0; c < width; c += 1) {
      let sum = 0;
      const last = Math.min(c + radius, width - 1);
      for (let k = Math.max(c - radius, 0); k <= last; k += 1) sum += data[row * width + k];
      blurred.data[row * width + c] = sum / (2 * radius + 1);
    }
  }
  return blurred;
}

function blur(picture, radius) {
  let blurred = picture;
  for (let pass = 0; pass < 2; pass += 1) {
    blurred = transpose(blurRows(transpose(blurRows(blurred, radius)), radius));
  }
  return blurred;
}

// What the surface missed, from the paper alone: smooth over a good part of the picture.
function smoothRest(rest, step, far) {
  const [width, height] = [rest.width, rest.height].map((side) => Math.ceil(side / step));
  const [seen, flat] = [newInk(width, height), newInk(width, height)];
  const restAt = (row, c) => rest.data[step * (row * rest.width + c)];
  const isFar = (row, c) =>
    row >= 0 && row < height && c >= 0 && c < width && Math.abs(restAt(row, c)) > far;
  const besides = [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]];
  for (let row = 0, i = 0; row < height; row += 1) {
    for (let c = 0; c < width; c += 1, i += 1) {
      if (besides.some(([y, x]) => isFar(row + y, c + x))) continue;
      flat.data[i] = 1;
      seen.data[i] = restAt(row, c);
    }
  }
  const radius = Math.max(Math.round(Math.max(seen.width, seen.height) / 10), 1);
  const [sum, share] = [blur(seen, radius), blur(flat, radius)];
  for (let i = 0; i < sum.data.length; i += 1) sum.data[i] /= share.data[i] + 0.02;
  return sum;
}

// A coarse grid's value at a pixel, bilinear.
function sampleAt({ data, width, height }, x, y) {
  const [left, top] = [Math.min(Math.floor(x), width - 1), Math.min(Math.floor(y), height - 1)];
  const [right, bottom] = [Math.min(left + 1, width - 1), Math.min(top + 1, height - 1)];
  const [u, v] = [Math.min(x - left, 1), Math.min(y - top, 1)];
  const upper = data[top * width + left] * (1 - u) + data[top * width + right] * u;
  const lower = data[bottom * width + left] * (1 - u) + data[bottom * width + right] * u;
  return upper * (1 - v) + lower * v;
}

// {depth, noise}: how far each pixel lies below (or above) its paper, as a share of the largest possible depth.
function flattenPaper(grey) {
  const { width, height } = grey;
  const step = Math.max(Math.floor(Math.max(width, height) / 96), 1);
  const { fit, spread } = fitPaper(grey, step);
  const far = Math.max(4 * spread, 6);
  const [paper, rest] = [newInk(width, height), newInk(width, height)];
  for (let i = 0; i < paper.data.length; i += 1) {
    const [x, y] = [place(i % width, width), place(Math.floor(i / width), height)];
    paper.data[i] =
      fit[0] + x * (fit[1] + fit[3] * x + fit[4] * y) + y * (fit[2] + fit[5] * y);
    rest.data[i] = grey.data[i] - paper.data[i];
  }
  const correction = smoothRest(rest, step, far);
  let balance = 0;
  const quiet = [];
  for (let i = 0; i < paper.data.length; i += 1) {
    const missed = sampleAt(correction, (i % width) / step, Math.floor(i / width) / step);
    paper.data[i] = Math.min(Math.max(paper.data[i] + missed, 0), 255);
    rest.data[i] = grey.data[i] - paper.data[i];
    if (Math.abs(rest.data[i]) > far) balance += rest.data[i];
    else quiet.push(i);
  }
  const dark = balance <= 0;
  for (let i = 0; i < rest.data.length; i += 1) {
    const possible = Math.max(dark ? paper.data[i] : 255 - paper.data[i], 20);
    rest.data[i] = (dark ? -rest.data[i] : rest.data[i]) / possible;
  }
  const noise = quiet.length ? quantile(quiet.map((i) => Math.abs(rest.data[i])), 0.5) : 0;
  return { depth: rest, noise: Math.max(1.48 * noise, 0.004) };
}
