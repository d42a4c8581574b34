// What the page shows: a card for each network, the verdict over them, and their input.

const MAX_ROWS = 10; // With more classes than that, the most probable are shown.

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

// A probability as a person reads it; never 100.0%.
function percent(probability) {
  if (probability > 0.999) return ">99.9%";
  return probability < 0.001 ? "<0.1%" : `${(100 * probability).toFixed(1)}%`;
}

function isDigits(names) {
  return names.every((name) => /^\d$/.test(name));
}

function makeRow() {
  const row = element("tr");
  const name = element("th");
  name.scope = "row";
  const track = element("div", "track");
  const bar = element("div", "bar");
  track.append(bar);
  const cell = element("td", "wide");
  cell.setAttribute("aria-hidden", "true");
  cell.append(track);
  const number = element("td", "number");
  row.append(name, cell, number);
  return { row, name, bar, number };
}

// A network's card: its name, its prediction, the probability, and a table of bars.
function makeCard(network, index) {
  const card = element("section", `card model-${index}`);
  const title = element("h2", "", network.name);
  title.id = `model-${index}`;
  card.setAttribute("aria-labelledby", title.id);
  const prediction = element("p", "prediction");
  const state = element("p", "state");
  const table = element("table");
  table.append(element("caption", "hidden", `Probabilities by ${network.name}`));
  const body = element("tbody");
  const count = Math.min(network.class_names.length, MAX_ROWS);
  const rows = Array.from({ length: count }, makeRow);
  body.append(...rows.map(({ row }) => row));
  table.append(body);
  card.append(title, prediction, state, table);
  return { card, prediction, state, rows };
}

// Fills a card with the result of `predict`, or empties it where there is none.
function showPrediction(card, network, prediction) {
  const names = network.class_names;
  const best = prediction && names[prediction.order[0]];
  card.prediction.textContent = best ?? "–";
  card.prediction.classList.toggle("long", (best ?? "").length > 2);
  card.card.classList.toggle("doubtful", Boolean(prediction) && !prediction.confident);
  card.card.classList.toggle("blank", !prediction);
  card.state.textContent = prediction ? stateOf(names, prediction) : "No prediction yet";
  const ranked = prediction && names.length > MAX_ROWS;
  card.rows.forEach(({ row, name, bar, number }, i) => {
    const index = ranked ? prediction.order[i] : i;
    const probability = prediction ? prediction.probabilities[index] : 0;
    name.textContent = names[index];
    bar.style.width = `${100 * probability}%`;
    number.textContent = prediction ? percent(probability) : "–";
    row.classList.toggle("best", Boolean(prediction) && index === prediction.order[0]);
  });
}

// "98.2%; then 7, 1.1%": the probability of the prediction, and the runner-up.
function stateOf(names, { probabilities, order, confident }) {
  const first = `${percent(probabilities[order[0]])}${confident ? "" : ", not confident"}`;
  return `${first}; then ${names[order[1]]}, ${percent(probabilities[order[1]])}`;
}

// The verdict over all networks: {kind, text}.
function verdictOf(networks, predictions) {
  const noun = isDigits(networks[0].class_names) ? "digit" : "input";
  if (!predictions) return { kind: "blank", text: `No ${noun}: the drawing area is blank.` };
  const name = ({ class_names: names }, { order }) => names[order[0]];
  const statements = networks.map((network, i) => {
    const doubt = predictions[i].confident ? "" : " (not confident)";
    return `${network.name} predicts ${name(network, predictions[i])}${doubt}`;
  });
  const predicted = new Set(networks.map((network, i) => name(network, predictions[i])));
  if (predicted.size > 1) return { kind: "differ", text: `The models disagree: ${statements.join(", ")}.` };
  const [only] = predicted;
  const confident = predictions.filter((prediction) => prediction.confident).length;
  const all = ["", ": both models agree", ": all models agree"][Math.min(networks.length, 3) - 1];
  if (confident === predictions.length) return { kind: "confident", text: `It is ${only}${all}.` };
  if (confident === 0) return { kind: "doubtful", text: `Not confident: it may be ${only}.` };
  return { kind: "doubtful", text: `It may be ${only}: ${statements.join(", ")}.` };
}

// Shows the models' 28x28 input, or blank paper, on a canvas of that size.
function showPixels(canvas, pixels) {
  const image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i += 1) {
    const level = pixels ? pixels[i] : 0;
    image.data.set([level, level, level, 255], 4 * i);
  }
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", pixels ? "28 by 28 pixels, the input of the models" : "Blank");
}

// Announces `text` to screen readers after `delay` ms without a newer one.
function makeAnnouncer(region, delay) {
  let timer = 0;
  return (text, wait = delay) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      region.textContent = text;
    }, wait);
  };
}

// "cnn: 68,218 parameters, 99.12% of 10,000 mnist test images correct"
function describe(network) {
  const runs = network.runs.filter((run) => run.test_accuracy !== null);
  const parts = [`${network.name}: ${network.parameters.toLocaleString("en")} parameters`];
  if (network.members.length > 1) parts.push(`ensemble of ${network.members.length}`);
  if (network.members.length === 1 && runs.length === 1) {
    const { test_accuracy: accuracy, test_count: count, dataset } = runs[0];
    const images = `${(count ?? 0).toLocaleString("en")} ${dataset ?? ""} test images`;
    parts.push(`${(100 * accuracy).toFixed(2)}% of ${images} correct`);
  }
  return parts.join(", ");
}
