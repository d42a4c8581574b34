// Networks as lists of plain layers (see fold.py), on float32 arrays, one image at a time.
// A tensor is {data: Float32Array, height, width, channels}, channels last.

const SIDE = 28;

// Decodes `text`, base64 of little-endian float32, or of int8 with a scale for each output.
function decodeFloats(text, scale) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  if (!scale) return new Float32Array(bytes.buffer);
  return Float32Array.from(new Int8Array(bytes.buffer), (v, i) => v * scale[i % scale.length]);
}

// The networks that the page carries, with their arrays decoded.
function readNetworks(text) {
  const networks = JSON.parse(text);
  for (const { arrays } of networks.flatMap((network) => network.members.flat())) {
    const scale = arrays.scale && decodeFloats(arrays.scale);
    for (const [name, text] of Object.entries(arrays)) {
      arrays[name] = decodeFloats(text, name === "kernel" && scale);
    }
  }
  return networks;
}

function tensor(height, width, channels) {
  return { data: new Float32Array(height * width * channels), height, width, channels };
}

// Pixels of a 2x2 block become channels, row by row.
function spaceToDepth(x) {
  const depth = x.channels;
  const y = tensor(x.height >> 1, x.width >> 1, 4 * depth);
  let to = 0;
  for (let row = 0; row < y.height; row += 1) {
    for (let column = 0; column < y.width; column += 1) {
      for (let corner = 0; corner < 4; corner += 1) {
        const pixel = (2 * row + (corner >> 1)) * x.width + 2 * column + (corner & 1);
        for (let c = 0; c < depth; c += 1, to += 1) y.data[to] = x.data[pixel * depth + c];
      }
    }
  }
  return y;
}

// sums[o] += sum over i of x[from + i] * kernel[at + i, o]: the inner loop of all that is slow.
// Most inputs are zero after a relu, and on blank paper.
function addProducts(sums, x, from, count, kernel, at) {
  const outputs = sums.length;
  for (let i = 0; i < count; i += 1) {
    const value = x[from + i];
    if (value === 0) continue;
    let k = at + i * outputs;
    for (let o = 0; o < outputs; o += 1, k += 1) sums[o] += value * kernel[k];
  }
}

// 3x3, padded with zeros to the same size; kernel [3, 3, in, out].
function conv(x, { kernel, bias }) {
  const depth = x.channels;
  const y = tensor(x.height, x.width, bias.length);
  const sums = new Float64Array(bias.length);
  for (let row = 0; row < x.height; row += 1) {
    for (let column = 0; column < x.width; column += 1) {
      sums.set(bias);
      for (let tap = 0; tap < 9; tap += 1) {
        const r = row + Math.floor(tap / 3) - 1;
        const c = column + (tap % 3) - 1;
        if (r < 0 || r >= x.height || c < 0 || c >= x.width) continue;
        const at = tap * depth * bias.length;
        addProducts(sums, x.data, (r * x.width + c) * depth, depth, kernel, at);
      }
      y.data.set(sums, (row * x.width + column) * bias.length);
    }
  }
  return y;
}

// 2x2 windows, stride 2; an odd last row or column is left out.
function maxPool(x) {
  const depth = x.channels;
  const y = tensor(x.height >> 1, x.width >> 1, depth);
  const below = x.width * depth;
  let to = 0;
  for (let row = 0; row < y.height; row += 1) {
    for (let column = 0; column < y.width; column += 1) {
      const corner = (2 * row * x.width + 2 * column) * depth;
      for (let c = corner; c < corner + depth; c += 1, to += 1) {
        const upper = Math.max(x.data[c], x.data[c + depth]);
        y.data[to] = Math.max(upper, x.data[c + below], x.data[c + below + depth]);
      }
    }
  }
  return y;
}

// By channel; in place, as every layer's input is used once.
function scale(x, { factor, offset }) {
  for (let i = 0; i < x.data.length; i += 1) {
    const c = i % x.channels;
    x.data[i] = x.data[i] * factor[c] + offset[c];
  }
  return x;
}

function relu(x) {
  for (let i = 0; i < x.data.length; i += 1) if (x.data[i] < 0) x.data[i] = 0;
  return x;
}

function flatten(x) {
  return { data: x.data, height: 1, width: 1, channels: x.data.length };
}

function dense(x, { kernel, bias }) {
  const y = tensor(1, 1, bias.length);
  const sums = Float64Array.from(bias);
  addProducts(sums, x.data, 0, x.data.length, kernel, 0);
  y.data.set(sums);
  return y;
}

const LAYERS = {
  space_to_depth: spaceToDepth,
  conv,
  max_pool: maxPool,
  scale,
  relu,
  flatten,
  dense,
};

// Probabilities, float64: the softmax of logits divided by the temperature.
function softmax(logits, temperature = 1) {
  const most = Math.max(...logits);
  const powers = Float64Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

// The logits of one member of a network for an image; pixels: Uint8Array of 28 x 28.
function memberLogits(layers, pixels) {
  const image = tensor(SIDE, SIDE, 1);
  for (let i = 0; i < pixels.length; i += 1) image.data[i] = pixels[i] / 255;
  return layers.reduce((x, layer) => LAYERS[layer.kind](x, layer.arrays), image).data;
}

// The logits of a network; of an ensemble, the logarithm of the mean probability.
function networkLogits(network, pixels) {
  const members = network.members.map((layers) => memberLogits(layers, pixels));
  if (members.length === 1) return members[0];
  const probabilities = members.map((logits) => softmax(logits));
  return Float32Array.from(members[0], (_, i) => {
    const sum = probabilities.reduce((total, member) => total + member[i], 0);
    return Math.log(sum / members.length);
  });
}

// The probability that pixels are one digit; see rejection.py.
function digitProbability(rejector, pixels) {
  return softmax(networkLogits(rejector, pixels), rejector.temperature)[1];
}

// {probabilities, order, confident}: the classes by descending probability, and whether the first
// one reaches the threshold; `isDigit` is whether the pixels look like one of the classes.
function predict(network, pixels, isDigit) {
  const probabilities = softmax(networkLogits(network, pixels), network.temperature);
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const confident = isDigit && probabilities[order[0]] >= network.threshold;
  return { probabilities, order, confident };
}
