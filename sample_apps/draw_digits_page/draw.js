// Read what is drawn with the pruned file. The network was trained on scikit-learn's digits, which were made from
// scanned forms: bitmaps of 32 by 32 as high as the digit, whose ink was counted in 8 by 8 squares.

import { Runtime } from "./runtime.js";

const FILE = "pruned.tfz";
const SIDE = 8, BITMAP = 32, SQUARE = BITMAP / SIDE;
const INK = 0.3; // the part of the squares that the ink of a digit covers in the data
const WIDTHS = [3, 4, 5, 6, 7, 8, 9]; // of the pen, in pixels of the bitmap
const PEN = 0.07; // of the paper, what one sees

const byId = (id) => document.getElementById(id);
const paper = byId("paper").getContext("2d");
const runtime = new Runtime((text) => say(text));
let strokes = [], reader, newest = 0;

start().catch((error) => say(`The page could not start: ${error.message}`));

async function start() {
  addScores();
  const [manifest, samples] = await Promise.all(["manifest.json", "samples.json"].map(fetchJson));
  addSamples(samples);
  if (!(await fetch("node_modules/@litertjs/core/package.json")).ok) {
    return say("LiteRT.js is missing: run npm install in this folder, and reload the page.");
  }
  await runtime.start();
  const loaded = await runtime.load(manifest.files.find(({ name }) => name === FILE));
  const sizes = [loaded.wire_bytes, loaded.bytes].map((bytes) => bytes.toLocaleString("en"));
  byId("costs").textContent = `The pruned file: ${sizes[0]} bytes to download, ${sizes[1]} unpacked.`;
  reader = loaded.number;
  say("Draw a digit on the paper.");
  if (strokes.length) await readDrawing();
}

async function fetchJson(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${name}.`);
  return response.json();
}

// Drawing: fingers, pens and mice alike.
byId("paper").onpointerdown = (event) => {
  event.preventDefault();
  event.target.setPointerCapture?.(event.pointerId);
  if (!strokes.length) clearPaper();
  strokes.push([placeOf(event)]);
  drawPaper();
};
byId("paper").onpointermove = (event) => {
  if (!event.buttons || !strokes.length) return;
  const all = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(all.length ? all : [event]).map(placeOf));
  drawPaper();
};
byId("paper").onpointerup = byId("paper").onpointercancel = () => readDrawing();
byId("clear").onclick = () => {
  strokes = [];
  newest++;
  clearPaper();
  showPixels(byId("seen"), new Float32Array(SIDE * SIDE));
  showScores(new Float32Array(10));
  if (reader !== undefined) say("Draw a digit on the paper.");
};

/** Return where a pointer is, as fractions of the paper. */
function placeOf(event) {
  const box = byId("paper").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function clearPaper() {
  paper.clearRect(0, 0, paper.canvas.width, paper.canvas.height);
}

function drawPaper() {
  clearPaper();
  const side = paper.canvas.width;
  drawStrokes(paper, PEN * side, ([x, y]) => [x * side, y * side]);
}

function drawStrokes(context, width, place) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = width;
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  for (const stroke of strokes) {
    context.beginPath();
    stroke.map(place).forEach(([x, y]) => context.lineTo(x, y));
    context.lineTo(...place(stroke.at(-1))); // a point is a dot
    context.stroke();
  }
}

/** Return the drawing as the data were made: as high as the bitmap, in the middle, and with as much ink. */
function pixelsOfDrawing() {
  const points = strokes.flat();
  const [left, right, top, bottom] = [0, 1].flatMap((axis) => {
    const numbers = points.map((point) => point[axis]);
    return [Math.min(...numbers), Math.max(...numbers)];
  });
  const context = new OffscreenCanvas(BITMAP, BITMAP).getContext("2d", { willReadFrequently: true });
  const inked = WIDTHS.map((width) => {
    const scale = (BITMAP - width) / Math.max(bottom - top, right - left, 1e-3);
    const middle = [(left + right) / 2, (top + bottom) / 2];
    context.clearRect(0, 0, BITMAP, BITMAP);
    drawStrokes(context, width, (point) => point.map((number, axis) => BITMAP / 2 + (number - middle[axis]) * scale));
    return countInk(context.getImageData(0, 0, BITMAP, BITMAP).data);
  });
  const distance = (pixels) => Math.abs(pixels.reduce((sum, ink) => sum + ink, 0) / pixels.length - INK);
  return inked.reduce((best, pixels) => (distance(pixels) < distance(best) ? pixels : best));
}

function countInk(data) {
  const pixels = new Float32Array(SIDE * SIDE);
  for (let place = 0; place < BITMAP * BITMAP; place++) {
    const row = Math.floor(place / BITMAP / SQUARE), column = Math.floor((place % BITMAP) / SQUARE);
    pixels[row * SIDE + column] += data[4 * place + 3] / 255 / SQUARE ** 2;
  }
  return pixels;
}

const readDrawing = () => (strokes.length ? read(pixelsOfDrawing()) : undefined);

async function read(pixels) {
  showPixels(byId("seen"), pixels);
  if (reader === undefined) return;
  const number = ++newest;
  const [scores] = await runtime.run(reader, [pixels]);
  if (number !== newest) return; // something newer was drawn meanwhile
  const digit = scores.indexOf(Math.max(...scores));
  showScores(scores);
  say(`This is ${digit === 8 ? "an" : "a"} ${digit}.`);
}

function addSamples(samples) {
  samples.forEach((ink, digit) => {
    const button = document.createElement("button"), picture = document.createElement("canvas");
    const pixels = Float32Array.from(ink, (count) => count / SQUARE ** 2);
    button.type = "button";
    button.setAttribute("aria-label", `Read ${digit === 8 ? "an" : "a"} ${digit} from the data`);
    picture.width = picture.height = SIDE;
    showPixels(picture, pixels);
    button.append(picture);
    button.onclick = () => {
      strokes = [];
      clearPaper();
      paper.imageSmoothingEnabled = false;
      paper.drawImage(picture, 0, 0, paper.canvas.width, paper.canvas.height);
      read(pixels);
    };
    byId("samples").append(button);
  });
}

/** Show ink as the text's color, more or less of it. */
function showPixels(canvas, pixels) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, SIDE, SIDE);
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  pixels.forEach((ink, place) => {
    context.globalAlpha = Math.min(ink, 1);
    context.fillRect(place % SIDE, Math.floor(place / SIDE), 1, 1);
  });
}

function addScores() {
  for (let digit = 0; digit < 10; digit++) {
    const row = document.createElement("div");
    row.className = "score";
    row.setAttribute("role", "listitem");
    for (const [name, text] of [["digit", digit], ["track", ""], ["percent", "0 %"]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      row.append(part);
    }
    const bar = document.createElement("div");
    bar.className = "bar";
    row.children[1].append(bar);
    byId("scores").append(row);
  }
}

function showScores(scores) {
  const most = Math.max(...scores);
  [...byId("scores").children].forEach((row, digit) => {
    row.querySelector(".bar").style.width = `${100 * scores[digit]}%`;
    row.querySelector(".percent").textContent = `${Math.round(100 * scores[digit])} %`;
    row.classList.toggle("first", most > 0 && scores[digit] === most);
  });
}

function say(text) {
  byId("answer").textContent = text;
}
