// Run the dense file and the one with zeros on the same pictures, in turns: a window that moves over a strip of scenes.

import { Runtime } from "./runtime.js";

const NAMES = ["dense", "zeros"]; // in the order of manifest.json
const REPEATS = 2, KEPT = 25; // runs that a time is the mean of, and pictures that a median is of
const COLORS = [null, [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189]];

const byId = (id) => document.getElementById(id);
const runtime = new Runtime((text) => say(text));
const times = [[], []];
let numbers, scenes, frame = 0, isPlaying = false;

start().catch((error) => say(`The page could not start: ${error.message}`));

async function start() {
  const [manifest, loaded] = await Promise.all(["manifest.json", "scenes.json"].map(fetchJson));
  scenes = loaded;
  addKinds();
  if (!(await fetch("node_modules/@litertjs/core/package.json")).ok) {
    return say("LiteRT.js is missing: run npm install in this folder, and reload the page.");
  }
  await runtime.start();
  numbers = [];
  for (const [place, name] of NAMES.entries()) {
    const { number, bytes } = await runtime.load(manifest.files[place]);
    byId(`${name}-bytes`).textContent = `${bytes.toLocaleString("en")} bytes`;
    numbers.push(number);
  }
  await show();
  byId("play").disabled = false;
}

async function fetchJson(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${name}.`);
  return response.json();
}

byId("play").onclick = async () => {
  isPlaying = !isPlaying;
  byId("play").textContent = isPlaying ? "Pause" : "Play";
  while (isPlaying) {
    await show();
    await new Promise(requestAnimationFrame);
  }
};

/** Run both files on the next picture, and show what they find and how long they took. */
async function show() {
  const pixels = picture(frame++);
  const found = [];
  for (const place of frame % 2 ? [0, 1] : [1, 0]) {
    const [scores] = await runtime.run(numbers[place], [pixels]);
    found[place] = kindsOf(scores);
    times[place] = [...times[place], await runtime.time(numbers[place], REPEATS)].slice(-KEPT);
  }
  const medians = times.map(medianOf);
  draw("scene", pixels, null);
  NAMES.forEach((name, place) => {
    draw(name, pixels, found[place]);
    byId(`${name}-ms`).textContent = `${medians[place].toFixed(2)} ms`;
  });
  const same = found[0].reduce((count, kind, pixel) => count + (kind === found[1][pixel]), 0) / found[0].length;
  byId("frames").textContent = frame === 1 ? "1 picture" : `${frame} pictures`;
  const [ratio, percent] = [(medians[0] / medians[1]).toFixed(2), Math.round(100 * same)];
  say(`With zeros: ${ratio} times as fast. Both agree on ${percent} % of the pixels.`);
}

/** Return the part of the strip that a picture shows, in gray values from 0 to 1. */
function picture(number) {
  const { side, width, pixels } = scenes;
  const left = number % width;
  return Float32Array.from({ length: side * side }, (_, place) => {
    const [row, column] = [Math.floor(place / side), (left + (place % side)) % width];
    return pixels[row * width + column] / 255;
  });
}

/** Return the kind with the highest score for each pixel. */
function kindsOf(scores) {
  const count = scenes.kinds.length;
  return Uint8Array.from({ length: scores.length / count }, (_, pixel) => {
    const own = scores.subarray(pixel * count, (pixel + 1) * count);
    return own.indexOf(Math.max(...own));
  });
}

function medianOf(numbers) {
  return [...numbers].sort((first, second) => first - second)[numbers.length >> 1];
}

/** Draw a picture, its pixels tinted by their kinds. */
function draw(id, pixels, kinds) {
  const context = byId(id).getContext("2d");
  const image = context.createImageData(scenes.side, scenes.side);
  pixels.forEach((gray, pixel) => {
    const color = kinds && COLORS[kinds[pixel]];
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * pixel + channel] = color ? 0.65 * color[channel] + 90 * gray : 255 * gray;
    }
    image.data[4 * pixel + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

function addKinds() {
  scenes.kinds.forEach((kind, number) => {
    if (!COLORS[number]) return;
    const [item, mark] = ["li", "canvas"].map((name) => document.createElement(name));
    mark.width = mark.height = 1;
    mark.getContext("2d").fillStyle = `rgb(${COLORS[number].join(" ")})`;
    mark.getContext("2d").fillRect(0, 0, 1, 1);
    item.append(mark, kind);
    byId("kinds").append(item);
  });
}

function say(text) {
  byId("faster").textContent = text;
}
