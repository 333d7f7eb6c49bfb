// Runs image classifiers with MediaPipe Tasks, in a worker so that the page stays alive; written as worker.js.
//
// A classic worker, as vision_bundle.js is a script: the modules of @mediapipe/tasks-vision end in .mjs, which some web
// servers do not know as scripts. MediaPipe normalizes the pictures and reads the labels, by the metadata of the file.
"use strict";

importScripts("calls.js");

const RUNTIME = "node_modules/@mediapipe/tasks-vision/";

let fileset;
const models = [];

answer({ start, load, run, time });

async function start() {
  const begun = performance.now();
  importScripts(`${RUNTIME}vision_bundle.js`);
  fileset = await Vision.FilesetResolver.forVisionTasks(new URL(`${RUNTIME}wasm`, location).href);
  const build = fileset.wasmLoaderPath.split("/").at(-1).replace(/\.js$/, "");
  return { build, milliseconds: performance.now() - begun };
}

async function load({ path, inputs, outputs }) {
  const { content, costs } = await download(path);
  const begun = performance.now();
  const classifier = await Vision.ImageClassifier.createFromOptions(fileset, {
    baseOptions: { modelAssetBuffer: content, delegate: "CPU" },
    maxResults: -1,
  });
  models.push({ classifier, inputs, outputs, picture: null });
  return { number: models.length - 1, ...costs, compile_ms: performance.now() - begun };
}

/** Classify a picture, its bytes by row, column and color; returns the scores in the order of the classes. */
async function run({ number, inputs: [pixels] }) {
  const model = models[number];
  const [, height, width] = model.inputs[0].shape;
  const bytes = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let place = 0; place < height * width; place++) bytes.set(pixels.subarray(3 * place, 3 * place + 3), 4 * place);
  model.picture = new ImageData(bytes, width, height);
  const scores = new Float32Array(model.outputs[0].shape.at(-1));
  const { classifications } = model.classifier.classify(model.picture);
  for (const { index, score } of classifications[0].categories) scores[index] = score;
  return [scores];
}

async function time({ number, repeats }) {
  const { classifier, picture } = models[number];
  const begun = performance.now();
  for (let count = 0; count < repeats; count++) classifier.classify(picture);
  return (performance.now() - begun) / repeats;
}
