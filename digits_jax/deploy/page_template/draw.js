// The drawing: a list of marks, drawn with mouse, finger, pen or the keyboard.
// A mark is {kind: "stroke", points: [{x, y}]} in shares of the canvas's side,
// {kind: "picture", ink} or {kind: "clear"}; undo removes the last one.

const INK_SIDE = 280;
const PEN = 1 / 12; // the pen's width, of the canvas's side
const KEY_STEP = 1 / 28;
const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

// A line with round ends from one point to another, on a canvas whose side is `side`.
function drawSegment(context, from, to, side) {
  context.lineCap = "round";
  context.lineWidth = PEN * side;
  context.beginPath();
  context.moveTo(from.x * side, from.y * side);
  context.lineTo(to.x * side, to.y * side);
  context.stroke();
}

// Ink as a canvas of one colour.
function inkToCanvas(ink, [red, green, blue]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [ink.width, ink.height];
  const image = new ImageData(ink.width, ink.height);
  for (let i = 0, to = 0; i < ink.data.length; i += 1) {
    image.data[to++] = red;
    image.data[to++] = green;
    image.data[to++] = blue;
    image.data[to++] = Math.round(255 * ink.data[i]);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// A picture's ink, as large as fits with a margin.
function drawPicture(context, ink, side, colour) {
  const factor = (0.8 * side) / Math.max(ink.width, ink.height);
  const [width, height] = [ink.width * factor, ink.height * factor];
  context.imageSmoothingQuality = "high";
  const canvas = inkToCanvas(ink, colour);
  context.drawImage(canvas, (side - width) / 2, (side - height) / 2, width, height);
}

// The marks that show: those from the last picture on, or after the last clear.
function shownMarks(marks) {
  const clear = marks.findLastIndex((mark) => mark.kind === "clear");
  const picture = marks.findLastIndex((mark) => mark.kind === "picture");
  return marks.slice(Math.max(clear + 1, picture, 0));
}

// A drawing on `canvas`; `changed` is called after every change.
class Drawing {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.marks = [];
    this.view = canvas.getContext("2d", { willReadFrequently: true });
    const ink = document.createElement("canvas");
    ink.width = INK_SIDE;
    ink.height = INK_SIDE;
    this.ink = ink.getContext("2d", { willReadFrequently: true });
  }

  // What is drawn: {data, width, height}. A picture alone is read as it is, not as it shows.
  readInk() {
    const shown = shownMarks(this.marks);
    if (shown.length === 1 && shown[0].kind === "picture") return shown[0].ink;
    const { data } = this.ink.getImageData(0, 0, INK_SIDE, INK_SIDE);
    const ink = newInk(INK_SIDE, INK_SIDE);
    for (let i = 0; i < ink.data.length; i += 1) ink.data[i] = data[4 * i + 3] / 255;
    return ink;
  }

  get blank() {
    return shownMarks(this.marks).length === 0;
  }

  add(mark) {
    this.marks.push(mark);
    this.redraw();
  }

  undo() {
    this.marks.pop();
    this.redraw();
  }

  clear() {
    if (!this.blank) this.add({ kind: "clear" });
  }

  // Begins a stroke: a dot, until it is extended.
  begin(point) {
    const stroke = { kind: "stroke", points: [point] };
    this.marks.push(stroke);
    this.segment(point, point);
    return stroke;
  }

  // Extends a stroke, or begins another where it has been undone.
  extend(stroke, point) {
    if (this.marks.at(-1) !== stroke) return this.begin(point);
    this.segment(stroke.points.at(-1), point);
    stroke.points.push(point);
    return stroke;
  }

  segment(from, to) {
    drawSegment(this.ink, from, to, INK_SIDE);
    drawSegment(this.view, from, to, this.canvas.width);
    this.changed();
  }

  // Draws everything again: after undo, and when the canvas's size or colours change.
  redraw() {
    const side = Math.round(this.canvas.clientWidth * Math.min(devicePixelRatio, 3));
    this.canvas.width = side;
    this.canvas.height = side;
    const colour = getComputedStyle(this.canvas).color;
    this.view.strokeStyle = colour;
    this.ink.clearRect(0, 0, INK_SIDE, INK_SIDE);
    for (const mark of shownMarks(this.marks)) {
      if (mark.kind === "picture") {
        drawPicture(this.ink, mark.ink, INK_SIDE, [0, 0, 0]);
        drawPicture(this.view, mark.ink, side, colour.match(/\d+/g).map(Number));
      } else {
        mark.points.forEach((point, i) => {
          const from = mark.points[Math.max(i - 1, 0)];
          drawSegment(this.ink, from, point, INK_SIDE);
          drawSegment(this.view, from, point, side);
        });
      }
    }
    this.changed();
  }
}

// Draws with mouse, finger or pen; one of them at a time, so that a palm draws nothing.
function drawByPointer(drawing) {
  const { canvas } = drawing;
  let active = null;
  let stroke = null;
  const pointOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width,
      y: (event.clientY - box.top) / box.height,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (active !== null || event.button !== 0) return;
    active = event.pointerId;
    canvas.setPointerCapture(active);
    stroke = drawing.begin(pointOf(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== active) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      stroke = drawing.extend(stroke, pointOf(each));
    }
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(name, (event) => {
      if (event.pointerId === active) active = null;
    });
  }
}

// Draws with the arrow keys, two at once for a diagonal; Space and Enter put the pen down.
function drawByKeyboard(drawing, pen, announce) {
  const { canvas } = drawing;
  const held = new Set();
  let [at, stroke] = [{ x: 0.5, y: 0.25 }, null];
  const show = () => {
    pen.style.left = `${100 * at.x}%`;
    pen.style.top = `${100 * at.y}%`;
    pen.classList.toggle("down", stroke !== null);
  };
  const setDown = (down) => {
    if (down === (stroke !== null)) return;
    stroke = down ? drawing.begin(at) : null;
    announce(down ? "Pen down" : "Pen up");
    show();
  };
  const move = (size) => {
    const inside = (value) => Math.min(Math.max(value, PEN / 2), 1 - PEN / 2);
    const [x, y] = [...held].reduce(
      (sum, key) => [sum[0] + ARROWS[key][0], sum[1] + ARROWS[key][1]],
      [0, 0],
    );
    at = { x: inside(at.x + x * size), y: inside(at.y + y * size) };
    if (stroke) stroke = drawing.extend(stroke, at);
    show();
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      held.add(event.key);
      move(event.shiftKey ? KEY_STEP / 4 : KEY_STEP);
    } else if (event.key === " " || event.key === "Enter") {
      if (!event.repeat) setDown(stroke === null);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      setDown(false);
      if (event.key === "Delete") drawing.clear();
      else drawing.undo();
    } else if (event.key === "Escape") setDown(false);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("keyup", (event) => held.delete(event.key));
  canvas.addEventListener("blur", () => {
    held.clear();
    setDown(false);
  });
  show();
}
