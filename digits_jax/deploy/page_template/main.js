// Connects the drawing and the pictures with the networks and their predictions.

function byId(id) {
  return document.getElementById(id);
}

// Shows the networks' predictions for the drawing as it is now; returns the milliseconds taken.
function makePredicting(networks, rejector, cards, announce) {
  return (drawing) => {
    const start = performance.now();
    const ink = drawing.readInk();
    const pixels = placeDigit(ink.data, ink.width, ink.height);
    const isDigit = pixels && (!rejector || digitProbability(rejector, pixels) >= rejector.threshold);
    const predictions = pixels && networks.map((network) => predict(network, pixels, isDigit));
    cards.forEach((card, i) => showPrediction(card, networks[i], predictions && predictions[i]));
    const { kind, text } = verdictOf(networks, predictions);
    const verdict = byId("verdict");
    verdict.className = kind;
    verdict.textContent = text;
    document.body.dataset.verdict = kind;
    showPixels(byId("seen"), pixels);
    const milliseconds = performance.now() - start;
    byId("time").textContent = pixels ? `Predicted in ${milliseconds.toFixed(1)} ms.` : "";
    byId("undo").disabled = drawing.marks.length === 0;
    byId("clear").disabled = drawing.blank;
    announce(text);
    return milliseconds;
  };
}

// Returns a function that calls `work` once in the next frame, however often it is called.
function oncePerFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}

// Adds a picture file to the drawing, or shows why it can't be used.
async function takePicture(drawing, files) {
  const problem = byId("problem");
  problem.textContent = "";
  if (files.length === 0) {
    problem.textContent = "No picture file was given; give a PNG, JPEG, WebP or BMP file.";
    return;
  }
  const main = document.querySelector("main");
  main.setAttribute("aria-busy", "true");
  byId("verdict").textContent = "Reading the picture.";
  try {
    const ink = await readPicture(files[0]);
    drawing.add({ kind: "picture", ink });
    if (files.length > 1) problem.textContent = `${files[0].name} is read; the other files are ignored.`;
  } catch (error) {
    if (!(error instanceof PictureError)) throw error;
    problem.textContent = error.message;
  } finally {
    main.setAttribute("aria-busy", "false");
    drawing.changed();
  }
}

function listen(drawing) {
  const input = byId("file");
  byId("undo").addEventListener("click", () => drawing.undo());
  byId("clear").addEventListener("click", () => drawing.clear());
  byId("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    await takePicture(drawing, [...input.files]);
    input.value = "";
  });
  for (const name of ["pointerdown", "keydown"]) {
    drawing.canvas.addEventListener(name, () => {
      byId("problem").textContent = "";
    });
  }
  document.addEventListener("keydown", (event) => {
    const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (!undo || event.shiftKey) return;
    event.preventDefault();
    drawing.undo();
  });
  document.addEventListener("paste", (event) => takePicture(drawing, [...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takePicture(drawing, [...event.dataTransfer.files]);
  });
}

// Classifies a made-up image a few times, so that its code is compiled before the first stroke.
function warmUp(networks, rounds) {
  const ink = newInk(INK_SIDE, INK_SIDE);
  for (let i = 0; i < ink.data.length; i += 1) ink.data[i] = Number(i % INK_SIDE > 100 && i % 7 > 2);
  const pixels = placeDigit(ink.data, ink.width, ink.height);
  for (const network of networks) predict(network, pixels, true);
  if (rounds > 1) setTimeout(() => warmUp(networks, rounds - 1));
}

function start() {
  const networks = readNetworks(byId("networks").textContent);
  const [rejector] = readNetworks(byId("rejector").textContent);
  const cards = networks.map(makeCard);
  byId("models").append(...cards.map(({ card }) => card));
  byId("models").dataset.count = networks.length;
  const longest = Math.max(...networks[0].class_names.map((name) => name.length));
  byId("models").classList.toggle("long-names", longest > 2);
  byId("facts").append(...networks.map((network) => element("li", "", describe(network))));
  const announce = makeAnnouncer(byId("live"), 700);
  const update = makePredicting(networks, rejector, cards, announce);
  const milliseconds = [];
  const drawing = new Drawing(
    byId("canvas"),
    oncePerFrame(() => {
      milliseconds.push(update(drawing));
      if (milliseconds.length > 1000) milliseconds.shift();
    }),
  );
  drawByPointer(drawing);
  drawByKeyboard(drawing, byId("pen"), (text) => announce(text, 0));
  listen(drawing);
  new ResizeObserver(() => drawing.redraw()).observe(byId("canvas"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawing.redraw());
  // For programs: pure functions, and how long the last predictions took.
  window.digits = Object.freeze({
    logits: (index, pixels) => [...networkLogits(networks[index], pixels)],
    digitProbability: (pixels) => digitProbability(rejector, pixels),
    placeDigit,
    findDigit: (data, width, height) => {
      const ink = readDigit({ data: Float32Array.from(data), width, height });
      return ink && placeDigit(ink.data, ink.width, ink.height);
    },
    milliseconds,
  });
  setTimeout(() => warmUp(networks, 10));
}

start();
