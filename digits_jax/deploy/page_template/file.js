// A picture file -> grey levels, in bounded memory: files are checked before they are decoded.

const MAX_BYTES = 50e6;
const MAX_PIXELS = 50e6;
const LONGEST = 1000; // Pictures are worked on at this size at most.
const [INK_SHARE, NEAR_WHITE] = [0.5, 225]; // as in digits_jax/vision/decode.py
const ALLOWED = "PNG, JPEG, WebP and BMP files";

// The error of a file that can't be used: one line.
class PictureError extends Error {}

function textAt(bytes, from, count) {
  return String.fromCharCode(...bytes.subarray(from, from + count));
}

// Each readHeader returns {width, height, complete, animated}, or throws a RangeError where the
// header is cut off. `complete`: the file has its end.

function readPng(bytes, view) {
  const facts = { width: view.getUint32(16), height: view.getUint32(20) };
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const kind = textAt(bytes, at + 4, 4);
    if (kind === "acTL") facts.animated = view.getUint32(at + 8) > 1;
    if (kind === "IEND") facts.complete = true;
  }
  return facts;
}

function readJpeg(bytes, view) {
  const complete = endsJpeg(bytes);
  let at = 2;
  for (;;) {
    const marker = view.getUint16(at);
    if (marker >> 8 !== 0xff) throw new RangeError("no marker");
    const kind = marker & 0xff;
    if (kind === 0xff) at += 1;
    else if (kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind)) {
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5), complete };
    } else at += 2 + view.getUint16(at + 2);
  }
}

// Whether there is an end marker; cameras write more behind it.
function endsJpeg(bytes) {
  for (let i = bytes.length - 2; i >= 0; i -= 1) {
    if (bytes[i] === 0xff && bytes[i + 1] === 0xd9) return true;
  }
  return false;
}

function readWebp(bytes, view) {
  const complete = view.getUint32(4, true) + 8 <= bytes.length;
  const kind = textAt(bytes, 12, 4);
  const three = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16) + 1;
  if (kind === "VP8X") {
    const animated = (view.getUint8(20) & 2) !== 0;
    return { width: three(24), height: three(27), complete, animated };
  }
  if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >> 14) & 0x3fff) + 1, complete };
  }
  const side = (at) => view.getUint16(at, true) & 0x3fff;
  return { width: side(26), height: side(28), complete };
}

function readBmp(bytes, view) {
  const complete = view.getUint32(2, true) <= bytes.length;
  if (view.getUint32(14, true) === 12) {
    return { width: view.getUint16(18, true), height: view.getUint16(20, true), complete };
  }
  const [width, height] = [view.getInt32(18, true), view.getInt32(22, true)];
  return { width: Math.abs(width), height: Math.abs(height), complete };
}

const FORMATS = [
  { starts: (bytes) => textAt(bytes, 0, 8) === "\x89PNG\r\n\x1a\n", readHeader: readPng },
  { starts: (bytes) => textAt(bytes, 0, 3) === "\xff\xd8\xff", readHeader: readJpeg },
  {
    starts: (bytes) => textAt(bytes, 0, 4) === "RIFF" && textAt(bytes, 8, 4) === "WEBP",
    readHeader: readWebp,
  },
  { starts: (bytes) => textAt(bytes, 0, 2) === "BM", readHeader: readBmp },
];

// Throws a PictureError where a file can't be read, or not within bounds.
function checkPicture(bytes, name) {
  const fail = (problem) => {
    throw new PictureError(`${name}: ${problem}`);
  };
  const format = FORMATS.find(({ starts }) => starts(bytes));
  if (!format) fail(`is not a picture that can be read; allowed are ${ALLOWED}.`);
  let facts = { complete: false };
  try {
    const view = new DataView(bytes.buffer);
    facts = format.readHeader(bytes, view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  const pixels = facts.width * facts.height;
  if (facts.animated) fail("is animated; give a still picture.");
  if (pixels > MAX_PIXELS) {
    const size = `${facts.width.toLocaleString("en")} x ${facts.height.toLocaleString("en")}`;
    fail(`is ${size} pixels; save it smaller, up to ${MAX_PIXELS / 1e6} million are allowed.`);
  }
  if (!facts.complete || !pixels) fail("is damaged or cut off; save it again.");
}

// Pixels as red, green, blue, alpha, with the longer side at most LONGEST.
async function decodePicture(bytes, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes]));
  } catch {
    throw new PictureError(`${name}: can't be decoded; it is damaged: save it again.`);
  }
  const factor = Math.min(LONGEST / Math.max(bitmap.width, bitmap.height), 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(Math.round(bitmap.width * factor), 1);
  canvas.height = Math.max(Math.round(bitmap.height * factor), 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Grey levels, 0 black and 255 white, of what lies on paper of one level.
function toGrey({ data, width, height }, paper) {
  const grey = newInk(width, height);
  for (let i = 0; i < grey.data.length; i += 1) {
    const [red, green, blue, alpha] = data.subarray(4 * i, 4 * i + 4);
    const level = 0.299 * red + 0.587 * green + 0.114 * blue;
    grey.data[i] = Math.round(paper + (alpha / 255) * (level - paper));
  }
  return grey;
}

// Whether what is opaque is ink that white paper would hide: less than half of the picture, and most
// of it nearly white.
function isLightInk({ data, width, height }) {
  let [opaque, light] = [0, 0];
  for (let i = 0; i < data.length; i += 4) {
    const share = data[i + 3] / 255;
    opaque += share;
    const level = Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
    if (level >= NEAR_WHITE) light += share;
  }
  return opaque < INK_SHARE * width * height && light > opaque / 2;
}

// The ink of a file's digit; throws a PictureError where there is none.
async function readPicture(file) {
  const name = file.name || "The picture";
  if (file.size === 0) throw new PictureError(`${name}: is empty (0 bytes); give a picture file.`);
  if (file.size > MAX_BYTES) {
    throw new PictureError(`${name}: is over ${MAX_BYTES / 1e6} MB; save it smaller.`);
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new PictureError(`${name}: can't be read; give a file that exists, not a folder.`);
  }
  checkPicture(bytes, name);
  const image = await decodePicture(bytes, name);
  const digit = readDigit(toGrey(image, isLightInk(image) ? 0 : 255));
  if (!digit) throw new PictureError(`${name}: no digit; there is no ink on the picture.`);
  return digit;
}
