// Runs models with LiteRT.js, in a worker so that the page stays alive.
//
// A classic worker: the script of LiteRT.js calls importScripts. The modules of @litertjs/core need an import map, and
// workers have none, so this calls the WebAssembly module below them.
"use strict";

importScripts("calls.js");

const RUNTIME = "node_modules/@litertjs/core/wasm/";
const TYPES = { float32: [1, Float32Array], int32: [2, Int32Array] };
// A module with an instruction of relaxed SIMD: browsers that take it get the faster build.
const RELAXED_SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15,
  253, 128, 2, 11,
);

let wasm, environment;
const models = [];

answer({ start, load, run, time });

/** Write what LiteRT reports to the console, by its level; errors are shown on the page as well. */
function report(text) {
  if (/^(INFO|VERBOSE|DEBUG): /.test(text)) return console.info(text);
  if (text.startsWith("WARNING: ")) return console.warn(text);
  console.error(text);
  postMessage({ error: text.slice(0, LONGEST) });
}

async function start() {
  const begun = performance.now();
  const build = WebAssembly.validate(RELAXED_SIMD) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  importScripts(`${RUNTIME}${build}.js`);
  wasm = await self.ModuleFactory({
    locateFile: (name) => new URL(RUNTIME + name, location).href,
    print: report,
    printErr: report,
  });
  wasm.setupLogging();
  environment = wasm.LiteRtEnvironment.create(null);
  return { build, milliseconds: performance.now() - begun };
}

async function load({ path, inputs, outputs }) {
  const { content, costs } = await download(path);
  const begun = performance.now();
  const model = await compile(content);
  const compile_ms = performance.now() - begun;
  model.inputs = inOrder(model.signature.inputNames(), inputs).map((info) => ({ ...info, buffer: bufferOf(info) }));
  model.outputs = inOrder(model.signature.outputNames(), outputs);
  models.push(model);
  return { number: models.length - 1, ...costs, compile_ms };
}

async function compile(content) {
  const pointer = wasm._malloc(content.length);
  if (!pointer) throw new Error("there is not enough memory for this file");
  wasm.HEAPU8.set(content, pointer);
  const loaded = wasm.loadModel(environment, pointer, content.length);
  // One thread: more need headers that few servers send, and sparse kernels hardly gain from them.
  const options = { environment, accelerator: "wasm", cpuOptions: { numThreads: 1 }, gpuOptions: {}, webNNOptions: {} };
  return { signature: loaded.getSignature(0), compiled: await wasm.compileModel(environment, loaded, options) };
}

/** Return what is known of inputs or outputs in the order of LiteRT.js, each with its place in our order. */
function inOrder(names, infos) {
  return Array.from({ length: names.size() }, (_, number) => {
    const place = infos.findIndex(({ name }) => name === names.get(number));
    if (place < 0) throw new Error(`the file has an input or output ${names.get(number)} that is not expected`);
    return { ...infos[place], place };
  });
}

/** Return memory of the runtime for an input. */
function bufferOf({ shape, dtype }) {
  const dimensions = new wasm.VectorInt32();
  shape.forEach((length) => dimensions.push_back(length));
  const type = wasm.LiteRtRankedTensorType.create({ value: TYPES[dtype][0] }, wasm.LiteRtLayout.create(dimensions));
  return wasm.LiteRtTensorBuffer.createManaged(environment, wasm.LiteRtTensorBufferType.HOST_MEMORY, type, type.bytes());
}

async function run({ number, inputs }) {
  const model = models[number];
  for (const { buffer, place } of model.inputs) {
    const { buffer: memory, byteOffset, byteLength } = inputs[place];
    wasm.HEAPU8.set(new Uint8Array(memory, byteOffset, byteLength), buffer.lock(wasm.LiteRtTensorBufferLockMode.WRITE));
    buffer.unlock();
  }
  const results = [];
  (await invoke(model)).forEach((buffer, index) => {
    const { dtype, place } = model.outputs[index];
    const start = buffer.lock(wasm.LiteRtTensorBufferLockMode.READ);
    results[place] = new TYPES[dtype][1](wasm.HEAPU8.slice(start, start + buffer.packedSize()).buffer);
    buffer.unlock();
    buffer.delete();
  });
  return results;
}

const invoke = async ({ compiled, inputs }) => compiled.run(0, inputs.map(({ buffer }) => buffer));

async function time({ number, repeats }) {
  const begun = performance.now();
  for (let count = 0; count < repeats; count++) {
    for (const buffer of await invoke(models[number])) buffer.delete();
  }
  return (performance.now() - begun) / repeats;
}
