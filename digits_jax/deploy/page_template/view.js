// What the page shows: a card for each network, the verdict over them, and their input.

const MOST_ROWS = 10; // With more classes than that, the most probable are shown.

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
  const answer = element("p", "answer");
  const state = element("p", "state");
  const table = element("table");
  table.append(element("caption", "hidden", `Probabilities by ${network.name}`));
  const body = element("tbody");
  const count = Math.min(network.class_names.length, MOST_ROWS);
  const rows = Array.from({ length: count }, makeRow);
  body.append(...rows.map(({ row }) => row));
  table.append(body);
  card.append(title, answer, state, table);
  return { card, answer, state, rows };
}

// Fills a card with an answer of `answerOf`, or empties it where there is none.
function showAnswer(card, network, answer) {
  const names = network.class_names;
  const best = answer && names[answer.order[0]];
  card.answer.textContent = best ?? "–";
  card.answer.classList.toggle("long", (best ?? "").length > 2);
  card.card.classList.toggle("doubtful", Boolean(answer) && !answer.confident);
  card.card.classList.toggle("blank", !answer);
  card.state.textContent = answer ? stateOf(names, answer) : "No answer yet";
  const ranked = answer && names.length > MOST_ROWS;
  card.rows.forEach(({ row, name, bar, number }, i) => {
    const index = ranked ? answer.order[i] : i;
    const probability = answer ? answer.probabilities[index] : 0;
    name.textContent = names[index];
    bar.style.width = `${100 * probability}%`;
    number.textContent = answer ? percent(probability) : "–";
    row.classList.toggle("best", Boolean(answer) && index === answer.order[0]);
  });
}

// "98.2%; then 7, 1.1%": the probability of the prediction, and the runner-up.
function stateOf(names, { probabilities, order, confident }) {
  const first = `${percent(probabilities[order[0]])}${confident ? "" : ", not confident"}`;
  return `${first}; then ${names[order[1]]}, ${percent(probabilities[order[1]])}`;
}

// The verdict over all networks: {kind, text}.
function verdictOf(networks, answers) {
  const noun = isDigits(networks[0].class_names) ? "digit" : "answer";
  if (!answers) return { kind: "blank", text: `No ${noun}: the drawing area is blank.` };
  const name = ({ class_names: names }, { order }) => names[order[0]];
  const said = networks.map((network, i) => {
    const doubt = answers[i].confident ? "" : " (not confident)";
    return `${network.name} predicts ${name(network, answers[i])}${doubt}`;
  });
  const predicted = new Set(networks.map((network, i) => name(network, answers[i])));
  if (predicted.size > 1) return { kind: "differ", text: `The models disagree: ${said.join(", ")}.` };
  const [only] = predicted;
  const confident = answers.filter((answer) => answer.confident).length;
  const all = ["", ": both models agree", ": all models agree"][Math.min(networks.length, 3) - 1];
  if (confident === answers.length) return { kind: "confident", text: `It is ${only}${all}.` };
  if (confident === 0) return { kind: "doubtful", text: `Not confident: it may be ${only}.` };
  return { kind: "doubtful", text: `It may be ${only}: ${said.join(", ")}.` };
}

// The 28x28 that the models see, or paper, onto a canvas of that size.
function showPixels(canvas, pixels) {
  const image = new ImageData(SIDE, SIDE);
  for (let i = 0; i < SIDE * SIDE; i += 1) {
    const level = pixels ? pixels[i] : 0;
    image.data.set([level, level, level, 255], 4 * i);
  }
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", pixels ? "28 by 28 pixels, as the models see it" : "Blank");
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
